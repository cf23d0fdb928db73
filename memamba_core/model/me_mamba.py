"""ME-Mamba: three experts, a head, and learned vectors for a missing modality."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memamba_core.config.model import ModelConfig
from memamba_core.errors import ConfigError
from memamba_core.model.batch_scatter import BatchScatter, take
from memamba_core.model.branches import GenomicsBranch, PathologyBranch, hazard_layer
from memamba_core.model.experts import ExpertOutput
from memamba_core.model.parameter_groups import PARAMETER_GROUPS, parameter_group
from memamba_core.model.precision import at_least_float32
from memamba_core.model.scan import choose_backend
from memamba_core.model.synergistic import SynergisticExpert
from memamba_core.patient import InputSpec, PatientInputs

__all__ = ["MEMamba", "ModelOutput", "build_model"]


@dataclass(frozen=True)
class ModelOutput:
    """Prediction for a batch of patients.

    Attributes:
        logits_BK: logits of the hazards of the K time bins, in the order of the patients.
        mmd: fusion loss, mean over all patients of the batch. A patient who lacks a modality counts as 0.
        transport_cost: <plan, cost>, averaged in the same way.
        expert_logits: for each unimodal expert with a separate head, the positions in the batch of the patients
            with its modality, and their logits.
    """

    logits_BK: Float[Tensor, "B K"]
    mmd: Float[Tensor, ""]
    transport_cost: Float[Tensor, ""]
    expert_logits: Mapping[str, tuple[Int[Tensor, " _"], Float[Tensor, "_ K"]]]


class MEMamba(nn.Module):
    """Multi-expert survival model. Use `build_model`: the constructor draws from torch's global generator.

    A pathology expert reads the bag, a genomics expert the gene groups, and a synergistic expert the output tokens of
    both. A head joins their pooled vectors. An expert is built if the settings name it and the sites have its inputs.
    If a patient lacks an expert's input, the expert is not run and a learned vector replaces its output.
    """

    def __init__(self, config: ModelConfig, spec: InputSpec, *, expert_heads: bool = False) -> None:
        super().__init__()
        self._spec = spec
        self._scan_backend = config.scan_backend
        width = config.d_model
        pathology = "pathology" in config.experts and spec.feature_width > 0
        genomics = "genomics" in config.experts and len(spec.gene_groups) > 0
        synergistic = "synergistic" in config.experts and pathology and genomics
        num_experts = pathology + genomics + synergistic
        if not num_experts:
            raise ConfigError(
                f"experts is {list(config.experts)}, and the sites agreed on {spec.feature_width} slide features and "
                f"{len(spec.gene_groups)} gene groups; expected an expert whose inputs the sites have. Name one."
            )
        if config.slide_skip and not (pathology and spec.feature_groups):
            raise ConfigError(
                "slide_skip is true; expected false without a pathology expert that reads slide-level features in "
                "families of columns. Set slide_skip=false."
            )
        self.pathology = PathologyBranch(config, spec, own_head=expert_heads) if pathology else None
        self.genomics = GenomicsBranch(config, spec, own_head=expert_heads) if genomics else None
        self.synergistic = SynergisticExpert(config) if synergistic else None

        self.absent_pathology = nn.Parameter(torch.zeros(width)) if pathology else None
        self.absent_genomics = nn.Parameter(torch.zeros(width)) if genomics else None
        self.absent_synergistic = nn.Parameter(torch.zeros(width)) if synergistic else None
        self.head = nn.Sequential(
            nn.Linear(num_experts * width, width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            hazard_layer(config, spec),
        )

    def forward(self, patients: Sequence[PatientInputs]) -> ModelOutput:
        """Predict for a batch. In evaluation mode no patient's logits depend on another patient.

        The genes of all patients are computed at once, and so are all bags of equal size.
        """
        assert patients, "a batch has 0 patients; expected at least 1"
        pathology, genomics, synergistic, gene_shift, slide_shift = (
            BatchScatter(),
            BatchScatter(),
            BatchScatter(),
            BatchScatter(),
            BatchScatter(),
        )
        zero = mmd = transport_cost = self._like.new_zeros(())

        gene_output: ExpertOutput | None = None
        gene_rows = [i for i, patient in enumerate(patients) if self.genomics and patient.genes_C is not None]
        if self.genomics is not None and gene_rows:
            genes_BC = torch.stack([self._genes(patients[row]) for row in gene_rows])
            gene_output = self.genomics(genes_BC)
            genomics.add(gene_rows, gene_output.pooled_BD)
            if self.genomics.linear_skip is not None:
                gene_shift.add(gene_rows, self.genomics.linear_skip(genes_BC).unsqueeze(1))

        place = {row: i for i, row in enumerate(gene_rows)}
        for rows, patches_BPF in self._bags_by_size(patients):
            assert self.pathology is not None
            patch_output: ExpertOutput = self.pathology(patches_BPF)
            pathology.add(rows, patch_output.pooled_BD)
            if self.pathology.linear_skip is not None:
                slide_shift.add(rows, self.pathology.linear_skip(patches_BPF.mean(1)).unsqueeze(1))
            both = [i for i, row in enumerate(rows) if row in place]
            if self.synergistic is not None and gene_output is not None and both:
                fused = self.synergistic(
                    take(patch_output.tokens_BLD, both),
                    take(gene_output.tokens_BLD, [place[rows[i]] for i in both]),
                )
                synergistic.add([rows[i] for i in both], fused.pooled_BD)
                mmd = mmd + fused.mmd_B.sum()
                transport_cost = transport_cost + fused.transport_cost_B.sum()

        pooled = [
            rows.join(len(patients), absent_D)
            for rows, absent_D in (
                (pathology, self.absent_pathology),
                (genomics, self.absent_genomics),
                (synergistic, self.absent_synergistic),
            )
            if absent_D is not None  # the expert is built
        ]
        logits_BK = at_least_float32(self.head(torch.cat(pooled, dim=1)))
        for shift in (gene_shift, slide_shift):
            if shift.rows:
                logits_BK = logits_BK + shift.join(len(patients), zero.unsqueeze(0))
        expert_logits = {
            name: (
                torch.tensor(rows.rows, device=logits_BK.device),
                at_least_float32(branch.head(torch.cat(rows.values))),
            )
            for name, branch, rows in (
                ("pathology", self.pathology, pathology),
                ("genomics", self.genomics, genomics),
            )
            if branch is not None and branch.head is not None and rows.rows
        }
        return ModelOutput(logits_BK, mmd / len(patients), transport_cost / len(patients), expert_logits)

    def groups_of(self, patient: PatientInputs) -> frozenset[str]:
        """Return the parameter groups that receive a gradient from this patient's likelihood, and no others."""
        return self.groups_with(patches=patient.bag is not None, genes=patient.genes_C is not None)

    def groups_with(self, *, patches: bool, genes: bool) -> frozenset[str]:
        """Return the groups of `groups_of` for a patient with these modalities."""
        used = {"head"}
        for name, expert, present in (
            ("pathology", self.pathology, patches),
            ("genomics", self.genomics, genes),
            ("synergistic", self.synergistic, patches and genes),
        ):
            if expert is not None:
                used.add(name if present else f"absent_{name}")
        return frozenset(used)

    def last_layers(self) -> list[nn.Parameter]:
        """Return the parameters nearest to the logits: the linear skips and the last layer of the head."""
        branches = [branch for branch in (self.genomics, self.pathology) if branch is not None]
        skips = [branch.linear_skip for branch in branches if branch.linear_skip is not None]
        return [parameter for module in (self.head[-1], *skips) for parameter in module.parameters()]

    @torch.no_grad()
    def patch_attention(self, patient: PatientInputs) -> Float[Tensor, " P"]:
        """Return the pathology expert's attention to each row of the patient's bag, for heat maps; it sums to 1.

        Call `eval()` first, as for any prediction: in training mode dropout changes the tokens.

        Raises:
            ValueError: the patient has no bag, or the model has no pathology expert.
        """
        for rows, patches_BPF in self._bags_by_size([patient]):
            assert self.pathology is not None
            assert rows == [0]
            return self.pathology.row_attention(patches_BPF)[0]
        raise ValueError("no attention over patches: the patient has no bag, or the model has no pathology expert")

    def describe(self) -> str:
        """Return one line for a log: number of parameters, in all and by group, and the backend of the scan."""
        sizes = dict.fromkeys(PARAMETER_GROUPS, 0)
        for name, parameter in self.named_parameters():
            sizes[parameter_group(name)] += parameter.numel()
        groups = ", ".join(f"{group} {size:,}" for group, size in sizes.items() if size)
        backend = choose_backend(self._scan_backend, self._like)
        return f"ME-Mamba, {sum(sizes.values()):,} parameters ({groups}), scan: {backend}"

    @property
    def _like(self) -> Tensor:
        """A parameter whose dtype and device the inputs take."""
        weight = self.head[0].weight  # not `parameters()`: it walks the tree of modules, here once per bag
        assert isinstance(weight, Tensor)
        return weight

    def _genes(self, patient: PatientInputs) -> Tensor:
        """Return the patient's gene columns in the dtype and on the device of the model."""
        assert patient.genes_C is not None
        assert patient.genes_C.shape == (self._spec.num_genes,), (
            f"genes have shape {tuple(patient.genes_C.shape)}; expected the {self._spec.num_genes} agreed columns"
        )
        return patient.genes_C.to(self._like)

    def _bags_by_size(self, patients: Sequence[PatientInputs]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield, for each number of rows, the positions of the patients with such a bag, and their bags stacked."""
        by_size = defaultdict[int, list[tuple[int, Tensor]]](list)
        for row, patient in enumerate(patients):
            if self.pathology is not None and patient.bag is not None:
                patches_PF = patient.bag.patches_PF
                assert len(patches_PF), "a bag has 0 patches; expected None for a missing modality"
                assert patches_PF.ndim == 2, f"a bag has shape {tuple(patches_PF.shape)}; expected (patches, features)"
                assert patches_PF.shape[1] == self._spec.feature_width, (
                    f"a bag has {patches_PF.shape[1]} features; expected the {self._spec.feature_width} agreed ones"
                )
                by_size[len(patches_PF)].append((row, patches_PF))
        for group in by_size.values():
            bags = [patches_PF.to(self._like) for _, patches_PF in group]
            # A single bag is not copied: it may fill the memory.
            yield [row for row, _ in group], torch.stack(bags) if len(bags) > 1 else bags[0].unsqueeze(0)


def build_model(config: ModelConfig, spec: InputSpec, *, seed: int, expert_heads: bool = False) -> MEMamba:
    """Build the untrained model. It depends on the arguments alone; torch's global generator is not changed.

    Args:
        config: the model's settings.
        spec: sizes and groups that the sites agreed on.
        seed: seed of all initial weights.
        expert_heads: give each unimodal expert a separate small head (for `loss.expert_weight`).

    Raises:
        ConfigError: the settings name no expert whose inputs the sites have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MEMamba(config, spec, expert_heads=expert_heads)
