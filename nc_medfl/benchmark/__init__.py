"""The method bench: data sets x partitions x methods x seeds, run in parallel, resumable, with tables and plots.

``matrix`` reads what is to be run, ``pools`` and ``composites`` make images and labels, ``sites`` deals them out,
``single`` makes one run, ``runner`` all of them, ``results`` and ``tables`` and ``plots`` show what came out.
"""
