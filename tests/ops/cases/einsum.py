"""Cases of Einstein sums."""

from hypothesis import strategies as st

from tests.ops.cases.base import Case, generator, normal

EQUATIONS = [
    ["ij->ji", "ij->", "ijk->k", "...i->...", "ij", "ba"],
    ["bij,bjk->bik", "ij,jk", "bhid,bhjd->bhij", "i,i->", "i,j->ij", "...ij,jk->...ik", "ab,cd->da", "ij,ik->j"],
    ["ij,jk,kl->il", "b,bi,i->b", "nc,cd,nd->n", "...a,ab,...b->...", "i,j,k->", "ab,bc,d->ad", "bi,oij,bj->bo"],
]


@st.composite
def einsum(draw):
    count = draw(st.integers(1, 3))
    equation = draw(st.sampled_from(EQUATIONS[count - 1]))
    sizes = {letter: draw(st.integers(1, 3)) for letter in sorted(set(equation) & set("abcdefghijklmno"))}
    wide = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2)))]
    inputs, rng = [], generator(draw)
    for term in equation.partition("->")[0].split(","):
        many = [size if draw(st.booleans()) else 1 for size in wide][draw(st.integers(0, len(wide))) :]
        before, dots, after = term.partition("...")
        shape = [*(sizes[k] for k in before), *(many if dots else []), *(sizes[k] for k in after)]
        inputs.append(normal(rng, tuple(shape)))
    return Case(inputs, {"equation": equation})


CASES = {"Einsum": einsum()}
