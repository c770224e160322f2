"""An OpenAI-compatible server over one engine; `tempa serve` starts it.

`tempa.serve.settings` is all that imports without the extra: pip install 'tempa[serve]'.
"""
