"""Write an import into a new folder, and read it back as `load_cohort` does."""

from pathlib import Path

import pandas as pd

from client.importing.draft import render_draft
from client.importing.outcome import Imported
from memamba_core.config.site import load_site_config
from memamba_core.data.manifest import load_cohort
from memamba_core.errors import ConfigError, MemambaError
from memamba_core.io.atomic import fill_atomically

__all__ = ["write_import"]


def write_import(imported: Imported, format_name: str, output: Path) -> list[str]:
    """Write tables and site.yaml, and return lines about the cohort that they give.

    Args:
        imported: result of a format.
        format_name: its name.
        output: absent or empty folder. Files of one patient per row are readable by the owner only.

    Raises:
        ConfigError: the folder exists and is not empty, or is a file.
        DataError: the tables that the import wrote cannot be read as a cohort.
        OSError: the folder cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: exists and is not an empty folder. Name another folder, or move this one away")
    with fill_atomically(output, mode=0o700) as folder:
        for name, frame in imported.tables.items():
            _write_table(folder / name, frame)
        (folder / "site.yaml").write_text(render_draft(imported, format_name), encoding="utf-8")
        try:
            lines = _describe_cohort(folder)
        except MemambaError as error:
            if imported.root is None and not imported.questions:
                raise
            lines = [f"not readable yet: {str(error).replace(f'{folder}/', '')}"]
    return lines


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, lineterminator="\n")


def _describe_cohort(folder: Path) -> list[str]:
    config = load_site_config(folder / "site.yaml").data
    cohort = load_cohort(config)
    records = cohort.records
    events = sum(record.event for record in records)
    share = f"{events} had the event ({events / max(1, len(records)):.0%})"
    remedy = "If this is the number without the event, change data.clinical.event_means"
    lines = [f"cohort: {len(records)} patients; {share}. {remedy}"]
    if cohort.genes is not None:
        with_genes = sum(cohort.has_genes(record) for record in records)
        lines.append(f"molecular data: {with_genes} patients, {len(cohort.genes.columns)} columns")
    if cohort.features is not None:
        lines.append(f"features: {sum(cohort.has_slides(record) for record in records)} patients")
    lines += [f"doubt: {doubt}" for doubt in cohort.doubts]
    return lines
