"""Every merge method: names on the command line, members of the property tests, rows of the documentation."""

from amalgam.tasks.merging.methods.curvature import EpiMer, Fisher, RegMean, RegMeanPlusPlus, Wudi
from amalgam.tasks.merging.methods.linear import Average, GreedySoup, TaskArithmetic, WiSE
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.methods.sparse import Breadcrumbs, Dare, Ties
from amalgam.tasks.merging.methods.spectral import TSVM, IsoC, IsoCTS, KnOTS
from amalgam.tasks.merging.methods.spherical import Karcher, ModelStock, Slerp
from amalgam.tasks.user_names import unknown_name

MERGE_METHODS: tuple[type[MergeMethod], ...] = (
    Average,
    TaskArithmetic,
    WiSE,
    GreedySoup,
    Ties,
    Dare,
    Breadcrumbs,
    TSVM,
    IsoC,
    IsoCTS,
    KnOTS,
    Fisher,
    RegMean,
    RegMeanPlusPlus,
    Wudi,
    EpiMer,
    ModelStock,
    Slerp,
    Karcher,
)


def find_merge_method(name: str) -> type[MergeMethod]:
    """The method of that name, whatever its capitals, dashes and underscores. Raises ValueError, with near names."""
    plain = {_plain(kind.__name__): kind for kind in MERGE_METHODS}
    if (found := plain.get(_plain(name))) is None:
        raise unknown_name("merge method", name, [kind.__name__ for kind in MERGE_METHODS])
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace("++", "plusplus")
