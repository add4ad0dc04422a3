"""One measure of a comparison. Importable without torch and without what draws figures."""

from typing import Literal

from amalgam.pipeline.engine.kinds import Config


class Measure(Config):
    """One column of a comparison."""

    name: str
    """The metric of the results."""
    heading: str
    unit: Literal["percent", "number", "millions"] = "number"
    test_set: str | None = None
    """None: the number of all test sets together."""
    deviation: bool = True
    """Whether the deviation over seeds stands beside the mean."""
    is_headline: bool = False
    """Whether the report's summary has it for every row; the first measure is there in any case."""

    @property
    def key(self) -> str:
        """What a row has it under."""
        return f"{self.test_set}/{self.name}" if self.test_set else self.name
