"""The store's tables as explicit Arrow schemas. A change that old readers cannot read raises VERSION."""

from __future__ import annotations

import pyarrow as pa

VERSION = 4
UPGRADED = (3,)
"""Versions that become the present one by being called so: 3 is the same without packs, which it would not see."""

DONE, PRUNED, FAILED = "done", "pruned", "failed"
"""A trial's status. Only DONE trials have measurements."""

_text, _real, _whole = pa.string(), pa.float64(), pa.int64()


def _table(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()), metadata={"denoise_studies_version": str(VERSION)})


TABLES: dict[str, pa.Schema] = {
    # one row a trial; written last, so a trial exists only when all its rows do
    "trials": _table(
        trial_id=_text,
        group_id=_text,
        study=_text,
        method=_text,
        method_version=_whole,
        config_json=_text,
        data_json=_text,
        recipe_json=_text,
        seed=_whole,
        budget=_text,
        status=_text,
        error=_text,
        log_path=_text,
        objective=_real,
        steps=_whole,
        total_steps=_whole,  # of the whole training, where it ended early
        parameters=_whole,
        workers=_whole,
        device=_text,
        train_s=_real,  # of all phases, whoever trained them
        shared_s=_real,  # the part of it that another training did
        eval_s=_real,
        wall_s=_real,
        peak_memory_mb=_real,
        attempts=_whole,
        started_at=pa.timestamp("ms", "UTC"),
        finished_at=pa.timestamp("ms", "UTC"),
        manifest_id=_text,
    ),
    # one row an image and metric; a file <trial>-<params> for each set of inference-time values, as of previews
    "measurements": _table(
        trial_id=_text,
        phase=_text,
        params_json=_text,
        dataset=_text,
        image_id=_text,
        repeat=_whole,
        output=_text,
        metric=_text,
        protocol=_text,
        value=_real,
    ),
    "curves": _table(trial_id=_text, phase=_text, step=_whole, name=_text, value=_real),
    # one row a phase that trainings may share, written after its weights; the name is the hash of what it depends on
    "phases": _table(
        phase_id=_text,
        group_id=_text,
        trial_id=_text,
        phase=_text,
        method=_text,
        study=_text,
        seed=_whole,
        steps=_whole,
        train_s=_real,
        curves_json=_text,
    ),
    # what a training learned, one row a point of a line of a figure (denoise_core.diagnostics); only where there is any
    "diagnostics": _table(trial_id=_text, figure=_text, series=_text, x=_real, y=_real),
    "previews": _table(trial_id=_text, params_json=_text, dataset=_text, image_id=_text, kind=_text, png=pa.binary()),
    # what Optuna suggested, in order; written when it is asked
    "suggestions": _table(search_id=_text, study=_text, number=_whole, params_json=_text, group_id=_text),
    # which numerics were chosen by measuring, so that the same question gets the same answer again
    "numerics": _table(
        numerics_id=_text,
        study=_text,
        created_at=pa.timestamp("ms", "UTC"),
        device=_text,
        chosen_json=_text,
        why=_text,
    ),
    "manifests": _table(manifest_id=_text, created_at=pa.timestamp("ms", "UTC"), manifest_json=_text),
}
