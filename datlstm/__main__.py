"""``python -m datlstm``."""

from datlstm.cli import app

app(prog_name="datlstm")
