"""`python -m training.hub push FOLDER REPO_ID [--private] [--space [SPACE_ID]]`: push a model to the Hub.

`push-dataset FOLDER REPO_ID [--private]` pushes a prepared data set.

All changes are one commit, so that the repository never holds half of a model. The same commit deletes files of an
earlier push that the model no longer has, at the root and in the folders of its components; a folder that is none of
these stays, as it may be somebody's own. training/sharing/uploads.py lists the files that are uploaded.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, SpaceInfo, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from pipelines.about import draws_in_steps
from training.files import read_json_object, weights_hash, write_json, write_whole
from training.model_index import is_adapter, is_pipeline
from training.run_record import PUSHED, base_of, pushed_id, pushed_revision
from training.sharing.card_text import is_own_card, render
from training.sharing.dataset_files import belongs_to_a_dataset, dataset_files
from training.sharing.hub_calls import HubError, with_retries
from training.sharing.secrets import check_secrets
from training.sharing.space import HARDWARE, is_of_the_space, payment_advice, space_files
from training.sharing.uploads import belongs_to_a_model, components, uploads

Files = dict[str, bytes | Path]


@dataclass(frozen=True)
class Pushed:
    """A repository and its new commit."""

    repo_id: str
    revision: str
    url: str


def prepare(
    repo_id: str,
    token: str | None = None,
    private: bool = False,
    repo_type: str = "model",
    hardware: str | None = None,
) -> str:
    """Create `repo_id` if needed and check that it can be pushed to, before any work; returns its full id, OWNER/NAME.

    `hardware` is that of a Space that is created, cpu-basic unless given.

    Raises:
        HubError: an invalid name, a missing or wrong token, no write access, no connection, or a Space that costs.
    """
    check_name(repo_id)
    token = token or get_token()
    if token is None:
        raise HubError("a token with the right to write is needed: `hf auth login`, or HF_TOKEN, or --hub_token")
    return with_retries(lambda: _create(HfApi(token=token), repo_id, private, repo_type, hardware), repo_id)


def check_name(repo_id: str) -> None:
    """Raise HubError if this is no name of a repository."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"the repository's name must be NAME or OWNER/NAME, got {repo_id!r}: {error}") from error


def push_folder(folder: Path, repo_id: str, token: str | None = None, private: bool = False) -> Pushed:
    """Push the model in `folder`, with its card, to the Hub in one commit.

    In the folder this writes only the card, which then pins the revision, and pushed.json, which records it.

    Raises:
        ValueError: as for `model_files`.
        HubError: as for `prepare`, or every attempt failed.
    """
    model_files(folder, repo_id, token)  # before anything is created
    warn_of_base(folder)
    remembered = pushed_id(folder), pushed_revision(folder)
    repo_id = prepare(repo_id, token, private)
    files, parts = model_files(folder, repo_id, token), {part.name for part in components(folder)}
    message = f"Upload {folder.resolve().name}"
    pushed = push_files(lambda _: files, repo_id, token, message, lambda name: belongs_to_a_model(name, parts))
    if remembered[0] != repo_id or remembered[1] is None:  # otherwise the recorded revision has the same weights
        record = {"repo_id": repo_id, "revision": pushed.revision, "weights": weights_hash(folder)}
        write_json(folder / PUSHED, record)
    if (is_pipeline(folder) or is_adapter(folder)) and not is_own_card(folder):
        write_whole(folder / "README.md", render(folder).encode())
    return pushed


def warn_of_base(folder: Path) -> None:
    """Say so if the base of an adapter is not on the Hub, so that others cannot draw with what is pushed."""
    if is_adapter(folder) and "/" not in (base := base_of(read_json_object(folder / "training.json"))[0]):
        print(
            f"warning: the adapter's base, {base}, is not on the Hub: push it, and then the adapter again",
            file=sys.stderr,
        )


def push_space(
    space_id: str, repo_id: str, token: str | None = None, private: bool = False, hardware: str | None = None
) -> Pushed:
    """Push the demo as a Space that opens with the model `repo_id`; the models that it had before stay.

    Raises:
        ValueError: a file of the demo contains a token or a path of this machine, or is a link to elsewhere.
        HubError: as for `prepare`, or every attempt failed.
    """
    demo_files(repo_id, token)  # before anything is created
    space_id = prepare(space_id, token, private, "space", hardware)

    def files_for(head: SpaceInfo) -> Files:
        return demo_files(repo_id, token, head, hardware, preload=not private)

    return push_files(files_for, space_id, token, f"Open with {repo_id}", is_of_the_space, "space")


def push_dataset(folder: Path, repo_id: str, token: str | None = None, private: bool = False) -> Pushed:
    """Push the prepared data set in `folder`, with its card, to the Hub in one commit.

    Raises:
        ValueError: as for `table_files`.
        HubError: as for `prepare`, or every attempt failed.
    """
    files = table_files(folder, token)
    repo_id = prepare(repo_id, token, private, "dataset")
    message = f"Upload {folder.resolve().name}"
    return push_files(lambda _: files, repo_id, token, message, belongs_to_a_dataset, "dataset")


def model_files(folder: Path, repo_id: str, token: str | None = None) -> Files:
    """The files that a push of `folder` uploads, by their names in the repository, with a card for `repo_id`.

    Raises:
        ValueError: the folder holds no model, a file is a link out of it, or one contains a token, a private key or a
            path of this machine.
    """
    files = uploads(folder)
    if (is_pipeline(folder) or is_adapter(folder)) and not is_own_card(folder):
        files["README.md"] = render(folder, repo_id).encode()
    return _checked(files, token)


def demo_files(
    repo_id: str,
    token: str | None = None,
    head: SpaceInfo | None = None,
    hardware: str | None = None,
    preload: bool = True,
) -> Files:
    """The same of the demo as a Space that opens with `repo_id`; `head` is what the Space is before the push."""
    return _checked(space_files(repo_id, head, hardware, token, preload), token)


def table_files(folder: Path, token: str | None = None) -> Files:
    """The same of a data set's folder."""
    return _checked(dataset_files(folder), token)


def _checked(files: Files, token: str | None) -> Files:
    check_secrets(files, token or get_token())
    return dict(sorted(files.items()))


def push_files(
    files_for: Callable[[ModelInfo | SpaceInfo], Files],
    repo_id: str,
    token: str | None,
    message: str,
    replaces: Callable[[str], bool],
    repo_type: str = "model",
) -> Pushed:
    """Make one commit that writes files and deletes every other file for whose name `replaces` is true.

    `files_for` returns the files to write; it is told what the repository holds before.
    """
    api = HfApi(token=token)

    def attempt() -> Pushed:
        head = api.repo_info(repo_id, repo_type=repo_type)
        files = files_for(head)
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

    return with_retries(attempt, repo_id)


def _create(api: HfApi, repo_id: str, private: bool, repo_type: str, hardware: str | None) -> str:
    kind = {"space_sdk": "gradio", "space_hardware": hardware} if repo_type == "space" else {}
    try:
        url = api.create_repo(repo_id, private=private or None, exist_ok=True, repo_type=repo_type, **kind)
    except HfHubHTTPError as error:
        if error.response.status_code != 402 or repo_type != "space":
            raise
        if "/" not in repo_id:  # one that is there is found by its full id alone
            return _create(api, f"{api.whoami()['name']}/{repo_id}", private, repo_type, hardware)
        raise HubError(payment_advice(repo_id, hardware, error.server_message)) from error
    if private and not api.repo_info(url.repo_id, repo_type=repo_type).private:
        raise HubError(f"{url.repo_id} exists and is public: make it private in its settings, or leave out --private")
    # create_repo succeeds for any repository that can be read; this needs write access, and uploads nothing
    api.preupload_lfs_files(url.repo_id, [CommitOperationAdd("README.md", b"-")], repo_type=repo_type)
    return url.repo_id


def _push_model(options: argparse.Namespace) -> None:
    """The command `push`."""
    wants_space = options.space is not None
    if wants_space and not is_pipeline(options.folder):
        raise ValueError(f"--space needs a pipeline to draw with, and {options.folder} has no model_index.json")
    if wants_space and not draws_in_steps(options.folder):
        raise ValueError(f"--space needs a pipeline that draws in steps, and that of {options.folder} does not")
    if options.space_hardware and not wants_space:
        raise ValueError(f"--space_hardware {options.space_hardware} needs --space: a model has no hardware")
    check_name(options.repo_id)
    check_name(options.space or options.repo_id)
    space = demo_files(options.repo_id, options.hub_token) if wants_space else {}
    if options.dry_run:
        _list(f"the model {options.repo_id}", model_files(options.folder, options.repo_id, options.hub_token))
        warn_of_base(options.folder)
        _list(f"the Space {options.space or options.repo_id}", space)
        return
    pushed = push_folder(options.folder, options.repo_id, options.hub_token, options.private)
    print(f"{pushed.url} holds {options.folder} at revision {pushed.revision}", flush=True)
    if wants_space:
        space_id, hardware = options.space or pushed.repo_id, options.space_hardware
        space = push_space(space_id, pushed.repo_id, options.hub_token, options.private, hardware)
        print(f"{space.url} draws with it")
        if options.private:
            print("add the secret HF_TOKEN in the settings of the Space, so that it can read the private model")


def _push_dataset(options: argparse.Namespace) -> None:
    """The command `push-dataset`."""
    check_name(options.repo_id)
    if options.dry_run:
        _list(f"the data set {options.repo_id}", table_files(options.folder, options.hub_token))
        return
    pushed = push_dataset(options.folder, options.repo_id, options.hub_token, options.private)
    print(f"{pushed.url} holds {options.folder} at revision {pushed.revision}")


def _list(where: str, files: Files) -> None:
    """Print the names alone on stdout, one a line; whose they are, on stderr."""
    if files:
        print(f"would upload to {where}:", file=sys.stderr, flush=True)
        print("\n".join(files), flush=True)


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
    push = commands.add_parser("push", help="upload a model's folder, or an adapter's")
    _add_options(push, "a folder of model_cards/, the trainer's output_dir, or a checkpoint's", _push_model)
    push.add_argument(
        "--space", nargs="?", const="", metavar="SPACE_ID", help="also push the demo as a Space [REPO_ID]"
    )
    push.add_argument(
        "--space_hardware",
        choices=HARDWARE,
        metavar="NAME",
        help="of a Space that is created, such as zero-a10g [cpu-basic]; that of one that exists stays",
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
