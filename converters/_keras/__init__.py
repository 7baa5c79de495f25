"""Parts of the Keras converter; what it offers is in :mod:`converters.keras`."""
