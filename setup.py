"""The extension in C, which pyproject.toml has no stable words for; the rest stands there."""

from setuptools import Extension, setup

FOLDER = "kernels/wm_kernels/native"

setup(
    ext_modules=[
        Extension(
            "wm_kernels.native._native",
            [f"{FOLDER}/module.c"],
            depends=[f"{FOLDER}/rows.h"],
            py_limited_api=True,
            optional=True,  # without a compiler NumPy does the same
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
