"""Federated multi-label chest X-ray classification with neural-collapse structure.

Data flows one way: radiographs and a label table become a *store* (:mod:`nc_medfl.data`), a pool may be
dealt out to several sites (:mod:`nc_medfl.partition`), each site trains (:mod:`nc_medfl.training`), NVIDIA
FLARE federates (:mod:`nc_medfl.federation`), every site evaluates at home (:mod:`nc_medfl.evaluation`) and
the numbers become one page (:mod:`nc_medfl.report`).

What stands beside those folders is for all of them: ``settings`` (the base of every settings class), ``yaml_file``,
``overrides``, ``presets``, ``mistakes`` (what is told of wrong ones), ``origins`` and ``schemas``; ``names`` and
``plugins`` (what other packages add); ``templates`` (jobs and sites to start from); ``pages`` and ``errors``.
"""

__version__ = "0.1.0"
