"""What pyproject.toml cannot say: the C library is loaded through ctypes, so one wheel serves every Python 3."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class AnyPython(bdist_wheel):
    """Tags the wheel py3-none-PLATFORM."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PlainLibrary(build_ext):
    """Names the library without the version of Python that happened to build it."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + (".pyd" if sys.platform == "win32" else ".so")


setup(cmdclass={"bdist_wheel": AnyPython, "build_ext": PlainLibrary})
