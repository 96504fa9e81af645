"""Refuse a checkpoint that does not fit, even where the caller would not notice."""

from torch import nn


class StrictLoading(nn.Module):
    """A module that loads all of its keys or none.

    ESPnet loads with strict=False and drops the result, so a wrong checkpoint would
    decode with random weights. Error messages are raised even then.
    """

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors
    ):
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing, unexpected, errors
        )
        own = {prefix + key for key in self.state_dict()}
        given = {key for key in state_dict if key.startswith(prefix)}
        for what, keys in (("misses", own - given), ("adds", given - own)):
            if keys:
                some = ", ".join(sorted(keys)[:3])
                errors.append(
                    f"the checkpoint {what} {len(keys)} key(s) of this "
                    f"{prefix.rstrip('.') or 'module'}, such as {some}: config and "
                    "checkpoint do not belong together"
                )
