"""What all tests share: property tests without deadlines, because the machines are shared, and a
garbage collector that does not go over torch and the tests themselves again and again."""

import gc

from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

gc.disable()  # until everything is imported: a fifth of that time went into looking for garbage


def pytest_collection_finish() -> None:
    """What is there before the first test stays to the end of the run, so it is left out."""
    gc.collect()
    gc.freeze()
    gc.enable()
