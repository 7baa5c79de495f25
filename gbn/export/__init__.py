"""The way out: nets as objects of other libraries, each imported when it is needed."""
