"""``python -m datlstm``."""

from datlstm.cli import app

if __name__ == "__main__":
    app(prog_name="datlstm")
