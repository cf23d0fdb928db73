"""Real patch bags, read from their files and pushed through all three experts."""

import pytest

from memamba_core.config.compose import compose_simulation
from memamba_core.config.experiment import Experiment
from memamba_core.config.training import AdamWConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.genomics.signatures import build_gene_groups
from memamba_core.data.statistics import column_moments, transform_genes
from memamba_core.training.checkpoint import initial_model
from memamba_core.training.trainer import Span, predict, train
from simulation.cohort import prepare_cohort

BAGS = [
    ("bags/tcga_roi_efficientnetlite0_h5", "efficientnet_lite0_imagenet", 1280, {64}),
    ("bags/pathomicfusion_h5", "pathomicfusion_cpc", 1024, {667, 711, 373}),
]


@pytest.mark.ci_slow
@pytest.mark.real_data
@pytest.mark.parametrize(("path", "encoder", "width", "sizes"), BAGS)
def test_real_bags_train_all_three_experts(path, encoder, width, sizes, data_root):
    overrides = [
        "data=tcga_gbmlgg_bags",
        f"data.root={data_root}",
        f"data.features.path={path}",
        f"data.features.encoder={encoder}",
    ]
    prepared = prepare_cohort(compose_simulation(overrides))
    cohort = prepared.cohort
    with_slides = cohort.subset([r.case_id for r in cohort.records if cohort.has_slides(r)])
    assert len(with_slides.records) == 3
    assert (cohort.features.width, cohort.features.encoder) == (width, encoder)

    experiment = Experiment()
    columns = cohort.genes.columns
    moments = column_moments([transform_genes(cohort.genes.values_NC, experiment.agreement)], len(columns))
    agreement = Agreement(
        time_bin_edges=(12.0, 24.0, 48.0),
        gene_columns=columns,
        gene_groups=build_gene_groups(columns, prepared.signatures, by="signatures"),
        encoder=encoder,
        feature_width=width,
        gene_center=moments.mean,
        gene_scale=moments.std.clip(experiment.agreement.gene_scale_floor),
    )
    dataset = PatientDataset(with_slides, agreement, experiment.agreement)
    assert {len(dataset.load(i).bag.patches_PF) for i in range(3)} == sizes

    model = initial_model(experiment, agreement)
    before = predict(model, dataset)
    result = train(model, dataset, config=experiment.training, optimizer=AdamWConfig(), span=Span(0, 3, 3), seed=0)
    assert result.skipped_steps == 0
    assert result.trained == dict.fromkeys(("genomics", "head", "pathology", "synergistic"), 3)
    assert predict(model, dataset).loss.mean() < before.loss.mean()
    attention_P = model.eval().patch_attention(dataset.load(0))
    assert len(attention_P) in sizes
    assert float(attention_P.sum()) == pytest.approx(1.0, abs=1e-4)
