"""The model hub: one file of a repository, and what its client's errors mean for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from dit_lens import zoo
from dit_lens.errors import BadInput, RunFailure


def hub_file(repository: str, file: str, revision: str | None, local: bool) -> str | None:
    """Local copy of one file of a hub repository, or None if the repository lacks it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not local and not isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        _require_connection(repository, file, revision)
    try:
        return str(hf_hub_download(repository, file, revision=revision, local_files_only=local))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None


def _require_connection(repository: str, file: str, revision: str | None) -> None:
    """Ask the hub once. For a file that was never downloaded its client would ask six times, with pauses that
    last from half a minute without a network to minutes behind a firewall."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))
    except Exception as error:
        # By name: they come from httpx2 or from httpx. All else that is wrong the download itself will say.
        if type(error).__name__ in ("ConnectError", "ConnectTimeout"):
            raise LocalEntryNotFoundError(f"No connection to the hub: {error}") from error


def _of_transport() -> tuple[type[Exception], ...]:
    """What the hub's client lets through from the library under it, which is httpx2 or, before it, httpx."""
    found: list[type[Exception]] = []
    for library in ("httpx2", "httpx"):
        with suppress(ImportError):
            found.append(import_module(library).HTTPError)
    return tuple(found)


@contextmanager
def hub_explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into what to do about it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{name}"
    try:
        yield
    except errors.GatedRepoError:
        raise BadInput(
            f"{name} is gated: accept its licence at {page}, then log in with `hf auth login` or set "
            "HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{name} on the hub has no revision {revision!r}. See {page}/commits/main.") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise BadInput(
            f"There is no model {name!r} on the hub that you may read, and no such folder here. Check "
            "the spelling; a "
            f"private one needs `hf auth login`. Embedded models: {', '.join(zoo.names()) or 'none'}."
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise RunFailure(
            f"{name} has not been downloaded, and the hub cannot be reached or may not be asked "
            "(HF_HUB_OFFLINE, local_files_only). There is no such folder here, either. Check the path, go "
            "online once, or give the folder of a downloaded pipeline."
        ) from None
    except (errors.HfHubHTTPError, *_of_transport(), ConnectionError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunFailure(
            f"The hub did not answer for {name}: {first} Try again, or give a local folder."
        ) from None
