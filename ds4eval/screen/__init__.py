"""The full screen: `state` follows events, `draw` makes lines of it, `app` owns the terminal."""
