# SPDX-License-Identifier: Apache-2.0
"""Supported data sets: one module per family, with row functions and `DataSet` records."""

from ..problems import DataSet
from .competitions import AIME_2024, AIME_2025, AMC_2023
from .dapo import DAPO_MATH_17K
from .deepscaler import DEEPSCALER
from .gsm8k import GSM8K, GSM8K_TEST
from .hendrycks_math import MATH500, MATH_LEVEL3TO5, SIMPLERL_MATH
from .minerva import MINERVA
from .numina import NUMINA_MATH_COT, NUMINA_MATH_TIR
from .olympiad_bench import OLYMPIAD_BENCH

_TRAINING = (NUMINA_MATH_TIR, NUMINA_MATH_COT, SIMPLERL_MATH, MATH_LEVEL3TO5, DEEPSCALER, DAPO_MATH_17K, GSM8K)
_EVALUATION = (MATH500, AIME_2024, AIME_2025, AMC_2023, MINERVA, OLYMPIAD_BENCH, GSM8K_TEST)
DATA_SETS: dict[str, DataSet] = {data_set.name: data_set for data_set in (*_TRAINING, *_EVALUATION)}
