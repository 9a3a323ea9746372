from __future__ import annotations

from pathlib import Path

import pytest

from cluster.report import cells
from cluster.report.papers import PaperTable, papers_folder, read_paper
from denoise_core.errors import UserError

GOOD = """
paper = "toy"
title = "Toy"
citation = "A. Uthor, 2020"
year = 2020
[[table]]
id = "table1"
caption = "Toys"
protocol = "toy"
metrics = ["psnr", "ssim"]
across = "gamma"
columns = [0, 2]
fixed = { method = "toy" }
rows = [ { noise = "gauss25", cells = ["CELL", "-"], note = "misprint?" } ]
"""


def toy(folder: Path, cell: str = "30.00/0.9", **replaced: str) -> PaperTable:
    text = GOOD.replace("CELL", cell)
    for old, new in replaced.items():
        text = text.replace(old, new)
    (folder / "toy.toml").write_text(text, encoding="utf-8")
    return PaperTable("toy", "table1", folder)


def test_every_paper_of_the_checkout_is_valid() -> None:
    for path in papers_folder().glob("*.toml"):
        paper = read_paper(path.stem, path.parent)
        assert paper.tables and paper.year > 1990 and paper.citation
        for table in paper.tables.values():
            addresses = [tuple(sorted((k, str(v)) for k, v in value.keys.items())) for value in table.values]
            assert len(set(addresses)) == len(addresses), f"{path.name}, {table.id}: two values with the same keys"


def test_neighbor2neighbor_has_all_printed_cells() -> None:
    tables = PaperTable("neighbor2neighbor", "table3").source().tables
    counts = {name: len(table.values) for name, table in tables.items()}
    assert counts == {"table1": 41 * 3, "table2": 24, "table3": 16, "table4": 10}


def test_gan2gan_has_all_printed_cells() -> None:
    tables = PaperTable("gan2gan", "table2").source().tables
    assert {name: len(table.values) for name, table in tables.items()} == {
        "table2": 36, "table3": 54, "table_s3": 18, "table_s7": 84, "table_s10": 40, "table_s11": 10,
        "readme_g2g3": 20, "readme_ct": 8, "readme_wf": 10,
    }  # fmt: skip
    chain = {"estimate": "previous", "initial": "g2", "pair": "two", "method": "gan2gan"}
    for table in tables.values():
        assert all(chain.items() <= v.keys.items() for v in table.find(method="gan2gan") if table.id != "table_s11")
        assert {value.protocol for value in table.values} == {"gan2gan"}


def test_dbsn_has_all_printed_cells() -> None:
    tables = PaperTable("dbsn", "table1").source().tables
    assert {name: len(table.values) for name, table in tables.items()} == {
        "table1": 8, "table1_references": 24, "table2": 10, "table2_references": 26,
        "table3": 12, "table3_references": 20, "table4": 2, "table4_references": 10,
    }  # fmt: skip
    for name, table in tables.items():
        assert {value.protocol for value in table.values} == {"dbsn"}
        printed = {"psnr", "ssim"} if name.startswith("table4") else {"psnr"}
        assert all(value.values.keys() == printed for value in table.values)
        assert len(table.find(method="dbsn")) == (0 if name.endswith("_references") else len(table.values))


@pytest.mark.parametrize(
    ("table", "keys", "psnr", "ssim", "note"),
    [
        ("table1", {"noise": "gauss25", "estimate": "bayes"}, 29.12, None, ""),
        ("table1", {"noise": "hg40_10", "estimate": "student", "dataset": "bsd68"}, 30.10, None, ""),
        ("table1_references", {"noise": "gauss50", "method": "mwcnn_n2c"}, 26.53, None, ""),
        ("table1_references", {"noise": "gauss15", "method": "gcbd"}, 31.37, None, ""),
        ("table2", {"noise": "mg75", "estimate": "bayes"}, 26.48, None, ""),
        ("table2_references", {"noise": "gauss25", "method": "cdncnn"}, 30.71, None, "looks misprinted"),
        ("table2_references", {"noise": "hg40_10", "method": "mwcnn_n2n"}, 31.13, None, ""),
        ("table3", {"noise": "gauss50", "dataset": "mcmaster18", "estimate": "student"}, 29.58, None, ""),
        ("table3_references", {"noise": "gauss25", "dataset": "kodak24", "method": "laine19"}, 32.33, None, ""),
        ("table4", {"dataset": "dnd", "estimate": "student"}, 37.93, 0.9373, "MWCNN(unpaired)"),
        ("table4_references", {"dataset": "cc15", "method": "bm3d"}, 35.19, 0.9063, "CBM3D"),
    ],
)
def test_lookup_in_dbsn(table: str, keys: dict[str, str | int], psnr: float, ssim: float | None, note: str) -> None:
    value = PaperTable("dbsn", table).lookup(**keys)
    assert value is not None and (value.psnr, value.ssim) == (psnr, ssim) and note in value.note


def test_the_noises_and_sets_of_dbsn_have_names_for_people() -> None:
    values = [value for table in PaperTable("dbsn", "table1").source().tables.values() for value in table.values]
    for noise, dataset in {(str(value.keys["noise"]), str(value.keys["dataset"])) for value in values}:
        assert cells.noise_name(noise) != noise and cells.dataset_name(dataset) != dataset
    assert cells.noise_name("hg40_10") == "heteroscedastic α = 40, δ = 10"
    assert cells.noise_name("hgv40_2.5") == "heteroscedastic (validation code) α = 40, δ = 2.5"
    assert [cells.noise_name(noise) for noise in ("mg75", "mgdraw75")] == [
        "multivariate, 75", "multivariate (drawn for each image), 75"
    ]  # fmt: skip
    assert cells.noise_name("cov9_-1_0_8_2.5_7") == "multivariate, covariance 9 -1 0, 8 2.5, 7"


def test_dbsn_and_its_references_are_looked_up_in_one_table_and_from_one_another() -> None:
    """A study names the paper's own tables: its cells have an estimate, its references only a method."""
    own = PaperTable("dbsn", "table1", also=("table2", "table3", "table4"))
    for noise, dataset, bayes, student, n2c, laine in (
        ("gauss25", "bsd68", 29.12, 29.38, 29.41, 29.27),
        ("gauss25", "cbsd68", 30.61, 31.40, 31.40, 31.35),
    ):
        at = {"noise": noise, "dataset": dataset}
        outputs = [own.lookup(method="dbsn", estimate=estimate, **at) for estimate in ("bayes", "student", "mu")]
        assert [value and value.psnr for value in outputs] == [bayes, student, None]
        others = [own.lookup_anywhere(method=method, **at) for method in ("mwcnn_n2c", "laine19")]
        assert [value and value.psnr for value in others] == [n2c, laine]
    both = PaperTable("dbsn", "table1", also=("table1_references",))
    reference = both.lookup(method="mwcnn_n2n", noise="hg40_10")
    cell = both.lookup(method="dbsn", estimate="bayes", noise="hg40_10")
    assert reference is not None and cell is not None and (reference.psnr, cell.psnr) == (29.53, 29.16)
    with pytest.raises(UserError, match=r"add one of: .*estimate"):
        both.lookup(method="dbsn", noise="gauss15")


@pytest.mark.parametrize(
    ("table", "keys", "psnr", "ssim", "note"),
    [
        ("table2", {"noise": "gauss25", "method": "gan2gan", "iterations": 0}, 24.16, 0.6630, "different runs"),
        ("table2", {"noise": "gauss15", "method": "gan2gan", "iterations": 2}, 32.51, 0.8827, "31.51"),
        ("table2", {"noise": "gauss50", "method": "n2c_eq4"}, 26.03, 0.6951, ""),
        ("table3", {"noise": "corr25", "method": "gan2gan", "iterations": 3}, 28.00, 0.8447, ""),
        ("table3", {"noise": "mixb30", "method": "n2n_blind"}, 30.36, 0.8559, "copied"),
        ("table_s3", {"noise": "mixa25", "patch_lambda": 0.005, "iterations": 2}, 40.16, 0.9838, "likely 0.05"),
        ("table_s7", {"noise": "wf_avg2", "method": "gan2gan", "iterations": 7}, 32.85, 0.7808, ""),
        ("table_s10", {"noise": "dose_mean", "method": "dncnn_b"}, 38.82, 0.5730, "misprinted"),
        ("table_s11", {"dataset": "fmd_wf", "pair": "estimate"}, 16.24, 0.4490, "average of S.M. table 7"),
        ("readme_g2g3", {"noise": "mixa25", "method": "gan2gan"}, 39.65, 0.9812, ""),
    ],
)
def test_lookup_in_gan2gan(table: str, keys: dict[str, str | int], psnr: float, ssim: float, note: str) -> None:
    value = PaperTable("gan2gan", table).lookup(**keys)
    assert value is not None and (value.psnr, value.ssim) == (psnr, ssim) and note in value.note


@pytest.mark.parametrize(
    ("table", "keys", "psnr", "ssim"),
    [
        ("table1", {"noise": "gauss25", "dataset": "kodak24", "method": "neighbor2neighbor"}, 32.08, 0.879),
        ("table1", {"noise": "poisson5_50", "dataset": "set14", "method": "laine19_pme"}, 28.65, 0.785),
        ("table2", {"noise": "real", "dataset": "sidd_validation", "method": "cycleisp"}, 50.45, None),
        ("table3", {"noise": "gauss25", "gamma": 2}, 32.08, 0.879),
        ("table3", {"noise": "poisson5_50", "gamma": 20.0, "dataset": "kodak24"}, 30.58, 0.846),
        ("table4", {"noise": "gauss5_50", "sampler": "fix-location"}, 32.07, 0.867),
    ],
)
def test_lookup(table: str, keys: dict[str, str | int], psnr: float, ssim: float | None) -> None:
    value = PaperTable("neighbor2neighbor", table).lookup(**keys)
    assert value is not None and (value.psnr, value.ssim) == (psnr, ssim)


def test_what_is_not_printed_is_none_and_what_is_not_unique_is_an_error() -> None:
    table = PaperTable("neighbor2neighbor", "table3")
    assert table.lookup(noise="gauss25", gamma=3) is None
    with pytest.raises(UserError, match=r"add one of: .*gamma"):
        table.lookup(noise="gauss25")
    with pytest.raises(UserError, match="no key 'gama': did you mean 'gamma'"):
        table.lookup(gama=2)


def test_references_are_found_in_the_papers_other_tables() -> None:
    value = PaperTable("neighbor2neighbor", "table3").lookup_anywhere(method="n2c", noise="gauss25", dataset="kodak24")
    assert value is not None and value.psnr == 32.43


def test_protocols_and_notes_follow_the_row() -> None:
    raw = PaperTable("neighbor2neighbor", "table4").lookup(noise="real", sampler="random")
    assert raw is not None and raw.protocol == "neighbor2neighbor_raw"


def test_unknown_paper_and_table_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'neighbor2neighbor'"):
        PaperTable("neighbour2neighbour", "table3").load()
    with pytest.raises(UserError, match="did you mean 'table3'"):
        PaperTable("neighbor2neighbor", "tabel3").load()


def test_another_folder(tmp_path: Path) -> None:
    value = toy(tmp_path).lookup(noise="gauss25")
    assert value is not None and value.psnr == 30.0 and value.note == "misprint?"


@pytest.mark.parametrize("cell", ["300/0.9", "30/9", "30", "nan/0.5", "thirty/0.9", "-1/0.9"])
def test_malformed_numbers_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UserError, match="table1"):
        toy(tmp_path, cell).load()


def test_malformed_files_are_refused(tmp_path: Path) -> None:
    for name, change in {"columns": {"[0, 2]": "[0]"}, "lacks": {"across": "along"}, "TOML": {"[[": "[[["}}.items():
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(UserError, match=name):
            toy(folder, **change).load()
