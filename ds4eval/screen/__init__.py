"""The full screen: `state` moves, `draw` turns it into lines, `app` owns terminal and thread."""
