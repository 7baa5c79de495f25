"""Cases of elementwise ops."""

from hypothesis import strategies as st

from tests.ops.cases.base import away_from_zero, inside, kinked, positive, unary


def hard_kinks(alpha=0.2, beta=0.5):
    return -beta / alpha, (1 - beta) / alpha


def shrink_kinks(lambd=0.5, bias=0.0):
    return -lambd, lambd


alpha = st.sampled_from([0.5, 1.0, 1.75])
CASES = {
    "Acos": unary(inside(-0.9, 0.9)),
    "Acosh": unary(inside(1.2, 4)),
    "Asin": unary(inside(-0.9, 0.9)),
    "Asinh": unary(),
    "Atan": unary(),
    "Atanh": unary(inside(-0.9, 0.9)),
    "Celu": unary(away_from_zero, alpha=alpha),
    "Clip": kinked(lambda **bounds: bounds.values(), min=st.sampled_from([-1.0, 0.0]), max=st.sampled_from([0.5, 6.0])),
    "Cos": unary(),
    "Cosh": unary(),
    "HardSigmoid": kinked(hard_kinks, alpha=st.sampled_from([0.25, 1.0]), beta=st.sampled_from([0.5, 0.25])),
    "HardSwish": kinked(lambda: (-3, 3)),
    "Mish": unary(),
    "Reciprocal": unary(away_from_zero),
    "Selu": unary(away_from_zero, alpha=alpha, gamma=alpha),
    "Shrink": kinked(shrink_kinks, lambd=st.sampled_from([0.5, 1.0]), bias=st.sampled_from([0.0, 0.25])),
    "Sin": unary(),
    "Sinh": unary(),
    "Softsign": unary(away_from_zero),
    "Tan": unary(inside(-1.3, 1.3)),
    "ThresholdedRelu": kinked(lambda alpha=1.0: (alpha,), alpha=alpha),
    "Abs": unary(away_from_zero),
    "Dropout": unary(ratio=st.just(0.3), training_mode=st.just(0)),
    "Elu": unary(away_from_zero, alpha=alpha),
    "Erf": unary(),
    "Exp": unary(),
    "Gelu": unary(approximate=st.sampled_from(["none", "tanh"])),
    "Identity": unary(),
    "LeakyRelu": unary(away_from_zero, alpha=st.sampled_from([0.0, 0.2, -0.5])),
    "Log": unary(positive),
    "Neg": unary(),
    "Relu": unary(away_from_zero),
    "Sigmoid": unary(),
    "Softplus": unary(),
    "Sqrt": unary(positive),
    "Swish": unary(alpha=alpha),
    "Tanh": unary(),
}
