"""Every merge method: names on the command line, members of the property tests, rows of the documentation."""

from amalgam.tasks.merging.methods.curvature.epimer import EpiMer
from amalgam.tasks.merging.methods.curvature.fisher import Fisher
from amalgam.tasks.merging.methods.curvature.reg_mean import RegMean
from amalgam.tasks.merging.methods.curvature.reg_mean_pp import RegMeanPlusPlus
from amalgam.tasks.merging.methods.curvature.wudi import Wudi
from amalgam.tasks.merging.methods.linear.average import Average
from amalgam.tasks.merging.methods.linear.greedy_soup import GreedySoup
from amalgam.tasks.merging.methods.linear.task_arithmetic import TaskArithmetic
from amalgam.tasks.merging.methods.linear.wise import WiSE
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.methods.sparse.breadcrumbs import Breadcrumbs
from amalgam.tasks.merging.methods.sparse.dare import Dare
from amalgam.tasks.merging.methods.sparse.ties import Ties
from amalgam.tasks.merging.methods.spectral.iso_c import IsoC
from amalgam.tasks.merging.methods.spectral.iso_cts import IsoCTS
from amalgam.tasks.merging.methods.spectral.knots import KnOTS
from amalgam.tasks.merging.methods.spectral.tsvm import TSVM
from amalgam.tasks.merging.methods.spherical.karcher import Karcher
from amalgam.tasks.merging.methods.spherical.model_stock import ModelStock
from amalgam.tasks.merging.methods.spherical.slerp import Slerp
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
