"""Early stopping: which evaluated state is the best, and when training stops.

Input: the value of a measure after some of the updates. Output: the best update, and whether patience is exhausted.
Both depend on these values alone. Every checkpoint stores them, so a resumed run decides like an uninterrupted one.
"""

from dataclasses import dataclass, field


@dataclass
class EarlyStopping:
    """The history of one measure on held-out data.

    Attributes:
      measure: its name, "setting/measure".
      lower_is_better: whether the lowest value is the best.
      patience: evaluations without improvement after which training stops; 0 never stops it.
      values: value after each evaluated update, by the number of updates, oldest first.
    """

    measure: str
    lower_is_better: bool = False
    patience: int = 0
    values: dict[int, float] = field(default_factory=dict)

    @property
    def best_step(self) -> int:
        """The first update with the best value, since an equal value is not an improvement; 0 before any evaluation."""
        sign = 1 if self.lower_is_better else -1
        return min(self.values, key=lambda step: sign * self.values[step], default=0)

    @property
    def without_improvement(self) -> int:
        """Number of evaluations since the best one."""
        best = self.best_step
        return sum(step > best for step in self.values)

    @property
    def exhausted(self) -> bool:
        """Whether training should stop now."""
        return 0 < self.patience <= self.without_improvement

    def describe(self) -> str:
        """Describe the latest value relative to the best."""
        latest, best = max(self.values), self.best_step
        value = f"step {latest}: {self.measure} {self.values[latest]:.4f}"
        if latest == best:
            return f"{value}, the best so far"
        patience = f" (patience {self.patience})" if self.patience else ""
        return (
            f"{value}; the best is {self.values[best]:.4f} after step {best}, evaluations without improvement: "
            f"{self.without_improvement}{patience}"
        )
