"""The model hub: one file of a repository, and what its client's errors mean for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dit_lens import zoo
from dit_lens.errors import BadInput, RunFailure


def hub_file(repository: str, file: str, revision: str | None, local: bool) -> str | None:
    """Local copy of one file of a hub repository, or None if the repository lacks it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return str(hf_hub_download(repository, file, revision=revision, local_files_only=local))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None


@contextmanager
def hub_explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into what to do about it."""
    import httpx
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
            "(HF_HUB_OFFLINE, "
            "local_files_only). Go online once, or give the folder of a downloaded pipeline."
        ) from None
    except (errors.HfHubHTTPError, httpx.HTTPError, ConnectionError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunFailure(
            f"The hub did not answer for {name}: {first} Try again, or give a local folder."
        ) from None
