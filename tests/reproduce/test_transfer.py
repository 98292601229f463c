"""The scores of models on other benchmarks than their own."""

from tests.reproduce.stand_in import stand_in_fixture  # noqa: F401
from tpr_jax.reproduce import plan, rows, transfer

DATA = {"cuhk_pedes": "/c", "rstp_reid": "/r"}
HEADER = "model,trained_on,tested_on,direction,R1,R5,R10,mAP,mINP\n"


def test_reads_text_queries_and_nothing_from_a_damaged_file(tmp_path):
    path = tmp_path / "cross.csv"
    assert transfer.read_scores(path) == {}
    path.write_text(f"{HEADER}m,a,b,t2i,1,2,3,4,5\nm,a,b,i2t,6,7,8,9,10\n")
    assert transfer.read_scores(path) == {("m", "b"): {"R1": 1, "R5": 2, "R10": 3, "mAP": 4, "mINP": 5}}
    for damaged in ("model,direction\nm,t2i\n", f"{HEADER}m,a,b,t2i,1,x,3,4,5\n", f"{HEADER}m,a,b,t2i,1\n"):
        path.write_text(damaged)
        assert transfer.read_scores(path) == {}


def test_groups_the_seeds_and_leaves_out_the_own_benchmark(tmp_path, monkeypatch):
    recipes = plan.plan(["zero_shot", "cskt"], DATA, 2, tmp_path, [])
    monkeypatch.setattr(rows.outcome, "is_complete", lambda run: True)
    lines = []
    for dataset, value in (("cuhk_pedes", 10), ("rstp_reid", 20)):
        for seed in (0, 1):
            folder = tmp_path / f"cskt-{dataset}" / f"seed_{seed}"
            lines += [f"{folder},{dataset},{tested},t2i,{value + 2 * seed},2,3,4,5" for tested in DATA]
    (tmp_path / "cross").mkdir()
    (tmp_path / "cross" / "cross.csv").write_text(HEADER + "\n".join(lines) + "\n")
    found = transfer.read(recipes, tmp_path)
    assert [(one.method, one.trained_on, one.tested_on) for one in found] == [
        ("cskt", "cuhk_pedes", "rstp_reid"),
        ("cskt", "rstp_reid", "cuhk_pedes"),
    ]
    assert found[0].ours["R1"].values == (10.0, 12.0) and found[1].ours["R1"].mean == 21.0


def test_runs_the_command_with_the_finished_models(stand_in, tmp_path, monkeypatch):
    recipes = plan.plan(["zero_shot", "cskt"], DATA, 1, tmp_path, [])
    monkeypatch.setattr(rows.outcome, "is_complete", lambda run: "rstp" not in run.name)
    assert transfer.execute(recipes, DATA, tmp_path, lambda: False) == (0, "1 model on 2 data sets")
    model = tmp_path / "cskt-cuhk_pedes" / "seed_0"
    words = f"cross {model} --data cuhk_pedes=/c rstp_reid=/r --out {tmp_path / 'cross'}\n"
    assert (tmp_path / "cross" / "log.txt").read_text().endswith(words)
    monkeypatch.setattr(transfer, "PROGRAM", ("false",))
    code, message = transfer.execute(recipes, DATA, tmp_path, lambda: False)
    assert code == 1 and message.startswith("FAILED (exit code 1): no output") and "log.txt" in message
    monkeypatch.setattr(transfer, "PROGRAM", ("sh", "-c", "sleep 600"))
    assert transfer.execute(recipes, DATA, tmp_path, lambda: True)[0] is None
