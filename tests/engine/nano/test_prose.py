"""Text that is measured on where no prompt is given."""

from engine.nano import prose


def test_text_is_of_the_seed_and_long_enough():
    short, long = prose.text(5, 1000), prose.text(5, 60_000)

    assert len(short) >= 1000 and len(long) >= 60_000
    assert long.startswith(short) and short != prose.text(6, 1000)
    # Facts come back, which is what makes drafting it worth measuring.
    assert long.count("Question: what is the number of ") > 50
