"""The plate layer: source graphs may move or merge the axis of the samples, vertices never do.

Every vertex of a net carries samples on axis 0, ``(N, *event)``.  A source graph need not: recurrent layers want
``(T, N, H)``, attention ``(N * heads, T, d)``, a layer applied to each time step ``(N * T, C, H, W)``.  A converter
therefore keeps, beside the vertex of a tensor, its *layout*: the one source axis that has the number of samples as a
factor, of size ``before * N * after`` in flat order.  The event of the vertex is the other axes in source order, with
that axis replaced by ``before`` and ``after`` where they are not 1.  So a transposition that only moves the samples is
no vertex, and a reshape, which keeps flat order, is one of the event alone.

Interface, for tables of ATen and ONNX operations alike::

    plates = Plates(net)                        # or Plates(net, baked=n): sizes of the source were fixed at n samples
    x = plates.input("x", (3, 8), sample_axis=0)            # source shape (N, 3, 8); None: the event is all there is
    w = plates.parameter("fc.weight", array)
    c = plates.constant("mask", array)                      # folded as far as possible, a vertex where it is used
    y = plates.emit("Softmax", [x], name="att", axis=-1)    # ONNX semantics on the axes of the *source* tensor
    y.shape                                                 # (Samples(1), 3, 8): the source shape, N symbolic
    plates.vertex(y)                                        # the name of its vertex; plates.named(y, "att") insists
    plates.output(y)                                        # the vertex of an output of the net

``emit`` adds what is needed, the last vertex under ``name`` and others as ``name.part``; it may add none.  Sizes among
its attributes (``shape`` of Reshape and Expand, ``repeats`` of Tile, ``starts`` and ``ends`` of Slice) may be
:class:`Samples`.  What cannot be said sample by sample raises :class:`Refused`; the message is the reason.  How each
op acts on layouts is in :mod:`converters._plate_rules`; an op that is not in that table is taken where samples are
plainly on axis 0.
"""
