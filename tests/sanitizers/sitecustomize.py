"""Lets any Python started with this folder on its path load the engine that TVMERGE_CORE holds."""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

_FOLDER = os.environ.get("TVMERGE_CORE")


class _CoreFinder:
    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """The specification of tvmerge._core in that folder; no other module is found."""
        if name != "tvmerge._core" or _FOLDER is None:
            return None
        spec = PathFinder.find_spec(name, [_FOLDER])
        if spec is None:
            raise ImportError(f"no {name} in {_FOLDER}")
        return spec


# Before the finder of an editable installation, which knows another one.
sys.meta_path.insert(0, _CoreFinder)
