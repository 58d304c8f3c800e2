"""A Copernicus Marine Data Store of the synthetic Bohai on loopback, for the real client in a child process.

Login, catalogue and ARCO Zarr stores answer under their real host names to whoever takes `MarineStore.environment`
into its environment. Every value says that it is synthetic, and no request leaves the machine.
"""

from datlstm.synthetic.marine_store.server import MarineStore

__all__ = ["MarineStore"]
