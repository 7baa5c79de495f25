"""Parts of the converter of layer lists; the format is described in :mod:`converters.spec`."""
