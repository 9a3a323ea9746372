"""The numbers of the DANet paper against its tables, copied in the layout in which they are printed."""

from __future__ import annotations

import pytest

from cluster.report.papers import Key, PaperTable, PaperValue
from denoise_core.metrics.kinds import METRICS

SIDD = "CBM3D WNNM DnCNN CBDNet RIDNet VDN DANet DANet+"
GENERAL = "CBM3D WNNM DnCNN CBDNet RIDNet VDN GDANet GDANet+"
PRINTED = [  # table, what its columns are, test set, head, lines of numbers
    ("table1", "method", "sidd_validation", "CBDNet ULRD GRDN DANet", """
        PGap 8.30 4.90 2.28 2.06
        AKLD 0.728 0.545 0.443 0.212"""),
    ("table2", "method", "sidd_testing", SIDD, """
        PSNR 25.65 25.78 23.66 33.28 - 39.26 39.25 39.43
        SSIM 0.685 0.809 0.583 0.868 - 0.955 0.955 0.956"""),
    ("table2", "method", "sidd_validation", SIDD, """
        PSNR 25.29 26.31 38.56 38.68 38.71 39.29 39.30 39.47
        SSIM 0.412 0.524 0.910 0.909 0.913 0.911 0.916 0.918"""),
    ("table3", "tau1", "sidd_validation", "1e+2 1e+3 1e+4 +∞", """
        PSNR 38.66 39.30 39.33 39.39
        SSIM 0.901 0.916 0.916 0.917"""),
    ("table4", "tau2", "sidd_validation", "0 5 10 50 +∞", """
        PGap 5.33 3.10 2.06 4.17 15.14
        AKLD 0.386 0.216 0.212 0.177 0.514"""),
    ("table5", "networks", "sidd_validation", "BaseD DANet", """
        PSNR 39.19 39.30
        SSIM 0.907 0.916"""),
    ("table6", "networks", "sidd_validation", "BaseG DANet", """
        PGap 4.07 2.06
        AKLD 0.223 0.212"""),
    ("table7", "method", "dnd", GENERAL, """
        PSNR 34.51 34.67 32.43 38.06 39.26 39.38 39.47 39.58
        SSIM 0.8244 0.8646 0.7900 0.9421 0.9528 0.9518 0.9548 0.9545"""),
    ("table8", "method", "nam", GENERAL, """
        PSNR 35.36 35.33 35.68 39.20 39.33 38.66 39.91 39.79
        SSIM 0.8708 0.8812 0.8811 0.9676 0.9623 0.9613 0.9693 0.9689"""),
]  # fmt: skip
ESTIMATES = {"DANet": "dual", "DANet+": "plus", "GDANet": "dual", "GDANet+": "plus"}
ABLATED = ("tau1", "tau2", "networks")  # shown beside simulated noise, too
NETWORKS = {"BaseD": "denoiser", "BaseG": "generator", "DANet": "both"}

Address = tuple[str, frozenset[tuple[str, Key]], str]  # table, keys, metric


def column(table: str, kind: str, name: str) -> tuple[str, dict[str, Key]]:
    """The table of the file that has a printed column, and the keys that stand for its name."""
    if kind == "networks":
        return table, {"method": "danet", "networks": NETWORKS[name]}
    if kind.startswith("tau"):
        return table, {"method": "danet", kind: "inf" if name == "+∞" else float(name)}
    if name in ESTIMATES:
        return table, {"method": "danet", "estimate": ESTIMATES[name]}
    return f"{table}_references", {"method": name.lower()}


def printed() -> dict[Address, float]:
    numbers: dict[Address, float] = {}
    for table, kind, dataset, head, body in PRINTED:
        for metric, *cells in (line.split() for line in body.strip().splitlines()):
            for name, cell in zip(head.split(), cells, strict=True):
                part, keys = column(table, kind, name)
                keys |= {} if kind in ABLATED or part == "table2" else {"noise": "recorded"}
                address = (part, frozenset({**keys, "dataset": dataset}.items()), metric.lower())
                assert address not in numbers
                if cell != "-":
                    numbers[address] = float(cell)
    return numbers


def filed() -> list[tuple[Address, float]]:
    return [
        ((name, frozenset(value.keys.items()), metric), number)
        for name, table in PaperTable("danet", "table1").source().tables.items()
        for value in table.values
        for metric, number in value.values.items()
    ]


def all_values() -> list[PaperValue]:
    return [value for table in PaperTable("danet", "table1").source().tables.values() for value in table.values]


def test_the_file_holds_every_printed_number_under_its_keys_and_no_other() -> None:
    numbers, entries = printed(), filed()
    assert len(entries) == len(numbers) == 96 and len(all_values()) == 48
    assert dict(entries) == numbers


def test_every_number_is_of_a_known_metric_within_its_bounds_and_of_one_protocol() -> None:
    for (_, _, metric), number in filed():
        assert METRICS[metric].low <= number <= METRICS[metric].high
    assert {value.protocol for value in all_values()} == {"danet"}


@pytest.mark.parametrize(("axis", "value"), [("tau1", 1000.0), ("tau2", 10.0), ("networks", "both")])
def test_the_papers_setting_has_the_same_numbers_wherever_it_is_printed(axis: str, value: Key) -> None:
    tables = PaperTable("danet", "table1").source().tables
    main = {**tables["table1"].values[0].values}
    main |= tables["table2"].find(estimate="dual", dataset="sidd_validation")[0].values
    found = [one for table in tables.values() for one in table.find(**{axis: value})]
    assert found and all(one.values.items() <= main.items() for one in found)


def test_both_metrics_of_the_denoiser_and_of_the_generator_are_found_from_one_study() -> None:
    both = PaperTable("danet", "table5", also=("table6",)).load()
    found = {
        networks: {metric: number for value in both.find(networks=networks) for metric, number in value.values.items()}
        for networks in ("denoiser", "generator", "both")
    }
    assert found == {
        "denoiser": {"psnr": 39.19, "ssim": 0.907},
        "generator": {"pgap": 4.07, "akld": 0.223},
        "both": {"psnr": 39.30, "ssim": 0.916, "pgap": 2.06, "akld": 0.212},
    }


def test_one_of_the_two_sets_of_table_2_is_picked_and_a_reference_that_is_not_printed_is_none() -> None:
    own = PaperTable("danet", "table2", where={"dataset": "sidd_validation"})
    plus = own.lookup(method="danet", estimate="plus")
    assert plus is not None and (plus.psnr, plus.ssim) == (39.47, 0.918)
    at = {"noise": "recorded", "method": "ridnet"}
    validation = own.lookup_anywhere(dataset="sidd_validation", **at)
    assert validation is not None and validation.psnr == 38.71
    assert own.lookup_anywhere(dataset="sidd_testing", **at) is None


def test_the_tables_of_gdanet_say_that_it_is_another_training() -> None:
    tables = PaperTable("danet", "table7").source().tables
    for name in ("table7", "table8"):
        assert "trained on more data" in tables[name].note
        assert all("GDANet" in value.note for value in tables[name].values)
