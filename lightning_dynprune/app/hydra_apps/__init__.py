"""The groups ``dynprune/...`` in any Hydra program that has this package installed, and the callback made from them.

``hydra_plugin`` is shipped as ``hydra_plugins/dynprune.py``, where Hydra looks for plugins. May import
``app/settings_folder.py``, Hydra and every room below app/.
"""

from typing import TYPE_CHECKING

from lightning_dynprune.base import lazy_names

if TYPE_CHECKING:
    from lightning_dynprune.app.hydra_apps.from_settings import callback_settings, new_callback
else:
    # Every Hydra program imports the plugin; torch is imported when a callback is made.
    __getattr__, __dir__ = lazy_names(
        __name__, {"lightning_dynprune.app.hydra_apps.from_settings": ["callback_settings", "new_callback"]}
    )

__all__ = ["callback_settings", "new_callback"]
