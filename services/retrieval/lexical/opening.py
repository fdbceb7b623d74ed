"""Choosing the lexical back end by the settings, and opening it."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.database.pool import Database
from meshkit.settings import SettingsInvalid
from services.retrieval.lexical import LexicalHome, LexicalIndex
from services.retrieval.lexical.home import generation, open_home, open_index
from services.retrieval.lexical.tantivy_index import IndexBusy
from services.retrieval.settings import RetrievalSettings


@dataclass(frozen=True, slots=True)
class Lexical:
    """The lexical back end of this process."""

    name: str
    home: LexicalHome
    index: LexicalIndex


async def open_lexical(settings: RetrievalSettings, database: Database) -> Lexical:
    """OpenSearch when its address is set, else the index in this process.

    OpenSearch need not answer: searches do without it and writes wait until it does.

    Raises:
        SettingsInvalid: naming the setting that is wrong.
    """
    if settings.opensearch_url.get_secret_value():
        return await _opensearch(settings, database)
    home = await open_home(settings.lexical_dir, database)
    try:
        return Lexical("tantivy", home, await open_index(home, database))
    except IndexBusy as error:
        raise SettingsInvalid(f"CITEMESH_RETRIEVAL_LEXICAL_DIR: {error}") from error


async def _opensearch(settings: RetrievalSettings, database: Database) -> Lexical:
    # Only here: a process with the embedded index need not load the client.
    from services.retrieval.lexical.opensearch.client import Options, connect
    from services.retrieval.lexical.opensearch.home import OpenSearchHome

    urls = settings.opensearch_url.get_secret_value().replace(",", " ").split()
    wrong = [url for url in urls if not url.startswith(("http://", "https://"))]
    if wrong or not urls:
        raise SettingsInvalid("CITEMESH_OPENSEARCH_URL must hold http:// or https:// addresses.")
    options = Options(
        urls=tuple(urls),
        user=settings.opensearch_user,
        password=settings.opensearch_password.get_secret_value(),
        bearer_token=settings.opensearch_bearer_token.get_secret_value(),
        ca_file=settings.opensearch_ca_file,
        client_certificate=settings.opensearch_client_certificate,
        client_key=settings.opensearch_client_key,
        connections=settings.opensearch_connections,
    )
    try:
        client = connect(options)
    except (OSError, ValueError) as error:
        raise SettingsInvalid(
            f"CITEMESH_OPENSEARCH_CA_FILE or the client's certificate: {error}"
        ) from error
    home = OpenSearchHome(
        client,
        prefix=settings.opensearch_prefix,
        generation=await generation(database),
        shards=settings.opensearch_shards,
    )
    return Lexical("opensearch", home, home.index)
