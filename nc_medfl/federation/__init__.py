"""The federation on NVIDIA FLARE: recipe, server side (controller, aggregator), client side, site settings.

Nothing here imports FLARE until it is asked for by module name: ``nvflare.recipe`` reads ``sys.argv`` when
it is imported.
"""
