"""Opens the language models that CITEMESH_GENERATION_PROVIDERS names."""

from __future__ import annotations

from collections.abc import Sequence

from meshkit.providers.catalogue import Model, Operation
from meshkit.providers.gate import Gate
from meshkit.providers.settings import Access, Providers
from services.generation.language_model import LanguageModel
from services.generation.rhythm import Rhythm


def open_models(names: Sequence[str], providers: Providers, rhythm: Rhythm) -> list[LanguageModel]:
    """One model for each name, in order. Nothing is called yet.

    Args:
        names: `provider` or `provider/model`.
        providers: Keys, addresses and breakers of this process.
        rhythm: Of the texts of this process.

    Raises:
        Unsupported, NotFound: no such provider or model.
        SettingsInvalid: a provider's key is missing.
    """
    opened: list[LanguageModel] = []
    for name in names:
        provider, _, model = name.partition("/")
        listed = providers.catalogue.find(provider, Operation.GENERATE, model)
        gate = providers.gate(listed)
        opened.append(_open(listed, providers.access(provider), gate, rhythm))
    return opened


def cheapest(names: Sequence[str], providers: Providers) -> str:
    """`provider/model` of the cheapest model that the providers of these names offer.

    Args:
        names: `provider` or `provider/model`, at least one.
        providers: What is known of them.
    """
    named = {name.partition("/")[0] for name in names}
    offered = [
        model
        for model in providers.catalogue.models
        if model.operation is Operation.GENERATE and model.provider in named
    ]
    return min(offered, key=lambda model: (model.input + model.output, model.name)).name


def _open(model: Model, access: Access, gate: Gate, rhythm: Rhythm) -> LanguageModel:
    """A provider's own library is imported only where it is used."""
    match model.provider:
        case "gemini":
            from meshkit.providers import gemini
            from services.generation.models.gemini import GeminiModel

            return GeminiModel(model, gemini.Client(access), gate, rhythm)
        case "anthropic":
            from meshkit.providers import anthropic
            from services.generation.models.anthropic import AnthropicModel

            return AnthropicModel(model, anthropic.open_client(access), gate, rhythm)
        case _:
            from meshkit.providers import cohere
            from services.generation.models.cohere import CohereModel

            return CohereModel(model, cohere.open_client(access), gate, rhythm)
