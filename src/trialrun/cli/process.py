"""Start of a command's process: delayed garbage collection.

Loading torch and MLflow makes it slow (benchmarks/lifetime.py).
"""

import gc

# Loading torch, torchvision and MLflow creates about 950,000 objects that are never freed. Python
# would scan them for garbage repeatedly: 1.1 s of 4.8 s (benchmarks/lifetime.py).
_LOADED_OBJECTS = 900_000


def defer_gc() -> None:
    """Delay the first garbage collection until a command's modules are loaded.

    The first collection then exempts the loaded objects and restores Python's thresholds.
    """
    default_thresholds = gc.get_threshold()

    def freeze_loaded_objects(_phase: str, _info: dict[str, int]) -> None:
        gc.callbacks.remove(freeze_loaded_objects)
        gc.freeze()
        gc.set_threshold(*default_thresholds)

    gc.callbacks.append(freeze_loaded_objects)
    gc.set_threshold(_LOADED_OBJECTS, *default_thresholds[1:])
