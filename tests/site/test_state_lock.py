"""Two clients on one state folder: the second is refused, and a client that ended leaves nothing behind."""

import pytest

from client.state_lock import only_client
from memamba_core.errors import ConfigError


def test_a_second_client_on_a_state_folder_is_refused(tmp_path):
    first = only_client(tmp_path)
    first.__enter__()
    with pytest.raises(ConfigError, match="another client uses this state folder"), only_client(tmp_path):
        pass
    first.__exit__(None, None, None)
    with only_client(tmp_path):
        pass
