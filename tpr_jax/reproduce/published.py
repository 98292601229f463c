"""The recipes that the command trains, and the published results: one row for each method and benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published result on the test split, text to image, in percent.

    Attributes:
      method: the name of a config: `configs/<method>.py` holds the recipe.
      dataset: a key of `datasets.DATASETS`.
      paper: where the numbers are published.
      r1: R@1.
      r5: R@5, None if it is not published.
      r10: R@10, None if it is not published.
      mean_ap: mAP, None if it is not published.
    """

    method: str
    dataset: str
    paper: str
    r1: float
    r5: float | None = None
    r10: float | None = None
    mean_ap: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """The published numbers by the names of `metrics.retrieval.METRIC_KEYS`."""
        numbers = {"R1": self.r1, "R5": self.r5, "R10": self.r10, "mAP": self.mean_ap}
        return {key: number for key, number in numbers.items() if number is not None}


_BASELINES = "a baseline, whose paper is not recorded"
_CSKT = "CSKT, ICASSP 2024"
_DM_ADAPTER = "DM-Adapter, AAAI 2025"
_UP_PERSON = "UP-Person, 2025"
_IRRA = "IRRA, CVPR 2023"

PUBLISHED = (
    Published("zero_shot", "cuhk_pedes", _BASELINES, 12.65, mean_ap=11.15),
    Published("zero_shot", "icfg_pedes", _BASELINES, 6.67, mean_ap=2.51),
    Published("zero_shot", "rstp_reid", _BASELINES, 13.45, mean_ap=10.31),
    Published("full_finetune", "cuhk_pedes", _BASELINES, 68.19, 86.47, 91.47, mean_ap=61.12),
    Published("full_finetune", "icfg_pedes", _BASELINES, 56.74, 75.72, 82.26, mean_ap=31.84),
    Published("full_finetune", "rstp_reid", _BASELINES, 54.05, 80.70, 88.00, mean_ap=43.41),
    Published("cskt", "cuhk_pedes", _CSKT, 69.70, 86.92, 91.80, mean_ap=62.74),
    Published("cskt", "icfg_pedes", _CSKT, 58.90, 77.31, 83.56, mean_ap=33.87),
    Published("cskt", "rstp_reid", _CSKT, 57.75, 81.30, 88.35, mean_ap=46.43),
    Published("dm_adapter", "cuhk_pedes", _DM_ADAPTER, 72.17, 88.74, 92.85, mean_ap=64.33),
    Published("dm_adapter", "icfg_pedes", _DM_ADAPTER, 62.64, 79.53, 85.32, mean_ap=36.50),
    Published("dm_adapter", "rstp_reid", _DM_ADAPTER, 60.00, 82.10, 87.90, mean_ap=47.37),
    Published("up_person", "cuhk_pedes", _UP_PERSON, 74.17),
    Published("up_person", "icfg_pedes", _UP_PERSON, 65.02),
    Published("up_person", "rstp_reid", _UP_PERSON, 63.15),
    Published("irra", "cuhk_pedes", _IRRA, 73.38, 89.93, 93.71, mean_ap=66.13),
    Published("irra", "icfg_pedes", _IRRA, 63.46, 80.24, 85.82, mean_ap=38.05),
    Published("irra", "rstp_reid", _IRRA, 60.20, 81.30, 88.20, mean_ap=47.17),
)
OWN = ("tpr_peft",)  # this project's recipe, of which nothing is published
METHODS = (*dict.fromkeys(row.method for row in PUBLISHED), *OWN)
DATASETS = tuple(dict.fromkeys(row.dataset for row in PUBLISHED))


def find(method: str, dataset: str) -> Published | None:
    """Returns the published result of a method of METHODS on a benchmark of DATASETS; None for one of OWN."""
    return next((row for row in PUBLISHED if (row.method, row.dataset) == (method, dataset)), None)
