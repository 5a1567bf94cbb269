"""`python -m reverse_lib.world.base FOLDER` makes the tiny base model anew; see `recipe`."""

import json
from dataclasses import fields
from pathlib import Path

import click

from reverse_lib.models import load_agent, set_threads
from reverse_lib.world.base.recipe import Recipe, build_base, measure_base


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A field of Recipe, such as reading=20.")
@click.option("--measure", is_flag=True, help="Only measure the skills of the base that is in FOLDER.")
def main(folder: Path, settings: tuple[str, ...], measure: bool) -> None:
    """Rebuild the tiny base model into FOLDER."""
    if measure:
        set_threads()
        try:
            agent = load_agent(folder)
        except (FileNotFoundError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        print(json.dumps(measure_base(agent), indent=2))
        return
    known = {field.name: field.type for field in fields(Recipe)}
    chosen = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known:
            raise click.BadParameter(f"{name!r}: unknown; use one of {', '.join(known)}")
        try:
            chosen[name] = known[name](value)
        except ValueError:
            raise click.BadParameter(f"{setting!r}: give a number") from None
    print(build_base(folder, Recipe(**chosen)))


if __name__ == "__main__":
    main()
