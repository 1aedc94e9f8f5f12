"""The study in words, for the report."""

from __future__ import annotations

from collections.abc import Sequence

from reprscope.plan.study import Experiment, Study


def listed(items: Sequence[object]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def introduction(study: Study, files: Sequence[str]) -> str:
    """One paragraph on what the whole study computes, and which files say so."""
    used = study.experiments.values()
    models = list(dict.fromkeys(model for e in used for model in e.models))
    datasets = list(dict.fromkeys(dataset for e in used for dataset in e.datasets))
    named = listed([f"`{file}`" for file in files])
    texts = [
        f"This study ({named}) measures {listed(models)} on {listed(datasets)} in "
        f"{len(study.experiments)} experiment{'s' if len(study.experiments) != 1 else ''}."
    ]
    for name in models:
        model = study.models[name]
        if model.untrained is not None:
            texts.append(
                f"{name} has the architecture of {model.shared_with} with weights that were never "
                f"trained (seed {model.untrained}), and shares its VAE and text encoder: what it "
                "reaches, training did not bring."
            )
    protocols = {protocol for e in used for protocol in e.protocols}
    if "standard" in protocols:
        texts.append(
            "Unless an experiment says otherwise, its protocol is standard: images are encoded to "
            "the mean of the VAE's posterior and noise is drawn for each image from its own seed."
        )
    if "thesis" in protocols:
        texts.append(
            "The protocol thesis is the method behind the published numbers: among other things "
            "all images share one noise map."
        )
    texts.append("The prompt is empty unless an experiment says otherwise.")
    return " ".join(texts)


def experiment(study: Study, entry: Experiment) -> str:
    """One paragraph on what an experiment crosses."""
    kind = study.kind(entry)
    named = f" ({listed(entry.tasks)})" if len(entry.tasks) > 1 else ""
    texts = [f"Task {kind}{named} on {listed(entry.datasets)}, models {listed(entry.models)}"]
    texts.append(f"timestep {listed(entry.timesteps)}")
    if entry.resolutions:
        texts.append(f"resolution {listed(entry.resolutions)} px")
    if entry.views != ("identity",):
        texts.append(f"view {listed(entry.views)}")
    if entry.prompts != ("empty",):
        texts.append("prompt " + listed([f"“{study.prompts[name]}”" for name in entry.prompts]))
    if entry.seeds != (0,):
        texts.append(f"noise seed {listed(entry.seeds)}")
    if entry.protocols != ("standard",):
        texts.append(f"protocol {listed(entry.protocols)}")
    return "; ".join(texts) + "."
