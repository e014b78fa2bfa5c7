"""The studio: draw, edit, mix and label in a browser, over the same facade that programs and commands use.

`protocol` says what goes over the wire, `operations` what each button does, `scheduling` who comes next, `server` joins
them with the page. The web framework is imported inside the functions that need it.
"""
