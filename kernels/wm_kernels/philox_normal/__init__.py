"""Counter-based random numbers: Philox4x32-10 words and standard normals."""

from wm_kernels.philox_normal.op import philox_normal, philox_words

__all__ = ["philox_normal", "philox_words"]
