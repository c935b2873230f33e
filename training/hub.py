"""`python -m training.hub push FOLDER REPO_ID [--private] [--space [SPACE_ID]]`: push a model to the Hub.

`push-dataset FOLDER REPO_ID [--private]` pushes a prepared data set.

All changes are one commit, so that the repository never holds half of a model. The same commit deletes files of an
earlier push that the model no longer has. training/sharing/uploads.py lists the files that are uploaded.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from training.files import weights_hash, write_json, write_whole
from training.model_index import is_pipeline
from training.run_record import PUSHED, pushed_id, pushed_revision
from training.sharing.card_text import is_own_card, render
from training.sharing.dataset_files import belongs_to_a_dataset, dataset_files
from training.sharing.secrets import check_secrets
from training.sharing.space import is_of_the_space, space_files
from training.sharing.uploads import belongs_to_a_model, components, uploads

Files = dict[str, bytes | Path]
Result = TypeVar("Result")
ATTEMPTS = 3
TRANSIENT = (408, 412, 429, 500, 502, 503, 504)  # 412: someone else has pushed in the meantime


class HubError(RuntimeError):
    """The Hub refused or failed. The message is one line that tells the user what to do."""


@dataclass(frozen=True)
class Pushed:
    """A repository and its new commit."""

    repo_id: str
    revision: str
    url: str


def prepare(repo_id: str, token: str | None = None, private: bool = False, repo_type: str = "model") -> str:
    """Create `repo_id` if needed and check that it can be pushed to, before any work; returns its full id, OWNER/NAME.

    Raises:
        HubError: an invalid name, a missing or wrong token, no write access, or no connection.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"the repository's name must be NAME or OWNER/NAME, got {repo_id!r}: {error}") from error
    token = token or get_token()
    if token is None:
        raise HubError("a token with the right to write is needed: `hf auth login`, or HF_TOKEN, or --hub_token")
    return _with_retries(lambda: _create(HfApi(token=token), repo_id, private, repo_type), repo_id)


def push_folder(folder: Path, repo_id: str, token: str | None = None, private: bool = False) -> Pushed:
    """Push the model in `folder`, with its card, to the Hub in one commit.

    In the folder this writes only the card, which then pins the revision, and pushed.json, which records it.

    Raises:
        ValueError: the folder holds no model, or a file contains a path of this machine or the token.
        HubError: as for `prepare`, or every attempt failed.
    """
    check_secrets(model_files(folder, repo_id), token or get_token())  # before anything is created
    repo_id = prepare(repo_id, token, private)
    files, parts = model_files(folder, repo_id), {part.name for part in components(folder)}
    message = f"Upload {folder.resolve().name}"
    pushed = push_files(files, repo_id, token, message, lambda name: belongs_to_a_model(name, parts))
    if (
        pushed_id(folder) != repo_id or pushed_revision(folder) is None
    ):  # otherwise the recorded revision has the same weights
        remembered = {"repo_id": repo_id, "revision": pushed.revision, "weights": weights_hash(folder)}
        write_json(folder / PUSHED, remembered)
    if is_pipeline(folder) and not is_own_card(folder):
        write_whole(folder / "README.md", render(folder).encode())
    return pushed


def push_space(space_id: str, repo_id: str, token: str | None = None, private: bool = False) -> Pushed:
    """Push the demo as a Space that opens with the model `repo_id`; the models that it had before stay."""
    space_id = prepare(space_id, token, private, "space")
    files = _with_retries(lambda: space_files(space_id, repo_id, token, preload=not private), space_id)
    return push_files(files, space_id, token, f"Open with {repo_id}", is_of_the_space, "space")


def push_dataset(folder: Path, repo_id: str, token: str | None = None, private: bool = False) -> Pushed:
    """Push the prepared data set in `folder`, with its card, to the Hub in one commit.

    Raises:
        ValueError: the folder holds no parquet files or no card, or the card contains a path or the token.
        HubError: as for `prepare`, or every attempt failed.
    """
    files = dataset_files(folder)
    check_secrets(files, token or get_token())
    repo_id = prepare(repo_id, token, private, "dataset")
    return push_files(files, repo_id, token, f"Upload {folder.resolve().name}", belongs_to_a_dataset, "dataset")


def model_files(folder: Path, repo_id: str) -> Files:
    """The files that a push of `folder` uploads, by their names in the repository, with a card for `repo_id`."""
    files = uploads(folder)
    if is_pipeline(folder) and not is_own_card(folder):
        files["README.md"] = render(folder, repo_id).encode()
    return dict(sorted(files.items()))


def push_files(
    files: Files,
    repo_id: str,
    token: str | None,
    message: str,
    replaces: Callable[[str], bool],
    repo_type: str = "model",
) -> Pushed:
    """Make one commit that writes `files` and deletes every other file for whose name `replaces` is true."""
    api = HfApi(token=token)

    def attempt() -> Pushed:
        head = api.repo_info(repo_id, repo_type=repo_type)
        there = [sibling.rfilename for sibling in head.siblings or []]
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        gone = [CommitOperationDelete(name) for name in there if replaces(name) and name not in files]
        # Not upload_folder, which commits in several parts with Xet. With parent_commit the commit fails if someone
        # else has pushed in the meantime, and the next attempt sees their files: two models never mix.
        commit = api.create_commit(
            repo_id, [*added, *gone], commit_message=message, repo_type=repo_type, parent_commit=head.sha
        )
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return Pushed(repo_id, commit.oid, f"{constants.ENDPOINT}/{prefix}{repo_id}")

    return _with_retries(attempt, repo_id)


def _create(api: HfApi, repo_id: str, private: bool, repo_type: str) -> str:
    sdk = "gradio" if repo_type == "space" else None
    url = api.create_repo(repo_id, private=private or None, exist_ok=True, repo_type=repo_type, space_sdk=sdk)
    if private and not api.repo_info(url.repo_id, repo_type=repo_type).private:
        raise HubError(f"{url.repo_id} exists and is public: make it private in its settings, or leave out --private")
    # create_repo succeeds for any repository that can be read; this needs write access, and uploads nothing
    api.preupload_lfs_files(url.repo_id, [CommitOperationAdd("README.md", b"-")], repo_type=repo_type)
    return url.repo_id


def _with_retries(attempt: Callable[[], Result], repo_id: str) -> Result:
    """The result of `attempt`, which is repeated if the connection or the Hub fails temporarily.

    Repeating is safe: if an attempt succeeded but its answer was lost, the next one finds nothing left to change.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except OfflineModeIsEnabled as error:
            raise HubError("HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it") from error
        except (OSError, httpx2.TransportError, RuntimeError) as error:  # the Hub's errors are OSErrors
            cause = _hub_error(error)
            if cause is None:
                raise
            if not _is_transient(cause) or number == ATTEMPTS:
                raise HubError(_advice(cause, repo_id)) from error
            logging.warning("the Hub failed (%s); trying again", _summary_of(cause))
            time.sleep(2**number)
    raise AssertionError("unreachable")


def _hub_error(error: BaseException | None) -> HfHubHTTPError | httpx2.TransportError | None:
    """The error of the Hub or of the connection among the causes of `error`; None if there is none."""
    while error is not None and not isinstance(error, (HfHubHTTPError, httpx2.TransportError)):
        error = error.__cause__
    return error


def _is_transient(cause: HfHubHTTPError | httpx2.TransportError) -> bool:
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in TRANSIENT
    return not isinstance(cause, httpx2.UnsupportedProtocol)


def _advice(cause: HfHubHTTPError | httpx2.TransportError, repo_id: str) -> str:
    if isinstance(cause, httpx2.ConnectError):
        return f"no Hub at {constants.ENDPOINT}: check the connection, and HF_ENDPOINT"
    if _is_transient(cause):
        return (
            f"the Hub failed {ATTEMPTS} times ({_summary_of(cause)}): {repo_id} is unchanged, or holds all of the new "
            "files if only the last answer was lost. Nothing changed here; run the command again"
        )
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if status == 401:
        return "the Hub refused the token: log in again with `hf auth login`, or check HF_TOKEN and --hub_token"
    if status in (403, 404):
        return f"the token gives no right to write to {repo_id}: use a token of its owner that may write"
    return f"the Hub refused {repo_id}: {_summary_of(cause)}"


def _summary_of(cause: HfHubHTTPError | httpx2.TransportError) -> str:
    if isinstance(cause, HfHubHTTPError):
        return f"{cause.response.status_code} {cause.server_message or ''}".strip()
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _push_model(options: argparse.Namespace) -> None:
    """The command `push`."""
    if options.space is not None and not is_pipeline(options.folder):
        raise ValueError(f"--space needs a pipeline to draw with, and {options.folder} has no model_index.json")
    if options.dry_run:
        print("\n".join(model_files(options.folder, options.repo_id)))
        return
    pushed = push_folder(options.folder, options.repo_id, options.hub_token, options.private)
    print(f"{pushed.url} holds {options.folder} at revision {pushed.revision}")
    if options.space is not None:
        space = push_space(options.space or pushed.repo_id, pushed.repo_id, options.hub_token, options.private)
        print(f"{space.url} draws with it")
        if options.private:
            print("add the secret HF_TOKEN in the settings of the Space, so that it can read the private model")


def _push_dataset(options: argparse.Namespace) -> None:
    """The command `push-dataset`."""
    if options.dry_run:
        print("\n".join(dataset_files(options.folder)))
        return
    pushed = push_dataset(options.folder, options.repo_id, options.hub_token, options.private)
    print(f"{pushed.url} holds {options.folder} at revision {pushed.revision}")


def _add_options(command: argparse.ArgumentParser, folder: str, run: Callable[[argparse.Namespace], None]) -> None:
    command.set_defaults(run=run)
    command.add_argument("folder", type=Path, help=folder)
    command.add_argument("repo_id", help="OWNER/NAME, or NAME for one of your own")
    command.add_argument("--private", action="store_true", help="only you can see the repository that is created")
    command.add_argument("--hub_token", help="use this token instead of that of `hf auth login` or HF_TOKEN")
    command.add_argument("--dry_run", action="store_true", help="list the files without pushing them")


def main(arguments: list[str] | None = None) -> None:
    """The command line. Bad input and errors of the Hub exit with a one-line message."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m training.hub", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    push = commands.add_parser("push", help="upload a model's folder")
    _add_options(push, "a folder of model_cards/, the trainer's output_dir, or a checkpoint's", _push_model)
    push.add_argument(
        "--space", nargs="?", const="", metavar="SPACE_ID", help="also push the demo as a Space [REPO_ID]"
    )
    dataset = commands.add_parser("push-dataset", help="upload a prepared data set")
    _add_options(dataset, "a folder with data/*.parquet and a README.md", _push_dataset)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, HubError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
