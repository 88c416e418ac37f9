"""What tests of several layers share: the seed of random cases and the types NumPy lacks."""

import os

import ml_dtypes
import numpy as np

SEED = int(os.environ.get("VTRN_TEST_SEED", "1"))
SHORT_FLOATS = {
    "fp8e4m3": ml_dtypes.float8_e4m3,
    "fp8e4m3fn": ml_dtypes.float8_e4m3fn,
    "fp8e5m2": ml_dtypes.float8_e5m2,
    "fp8e3m4": ml_dtypes.float8_e3m4,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}
