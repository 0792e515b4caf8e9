"""Layer Sustainability Analysis: which layers there are, how far each is moved, and what was found."""

from lsa_lightning.layers.analysis import LayerSustainabilityAnalysis
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.layers.profile import LayerProfile, Profile
from lsa_lightning.layers.report import AnalysedEpoch, SustainabilityReport, plot_history, plot_reports
from lsa_lightning.layers.resolve import Layer, LayerSpec, resolve_layers

__all__ = [
    "AnalysedEpoch",
    "Layer",
    "LayerProbe",
    "LayerProfile",
    "LayerSpec",
    "LayerSustainabilityAnalysis",
    "Profile",
    "SustainabilityReport",
    "plot_history",
    "plot_reports",
    "resolve_layers",
]
