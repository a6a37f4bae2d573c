"""The study: fine-tune traits in, take their task vectors, negate them, measure what happened.

Imported as `tvmerge.training`. Needs the `study` extra: `pip install 'tvmerge[study]'`.
"""

if __name__ != "tvmerge.training":
    raise ImportError(f"this package is tvmerge.training, not {__name__}: import it by that name")
