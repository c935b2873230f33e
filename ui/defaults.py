"""What the page draws with unless told otherwise, and how far its controls reach. Tune the fast path here."""

SAMPLER = "UniPC"
STEPS = 8
GUIDANCE_SCALE = 2.0
GUIDANCE_INTERVAL = (0.2, 0.8)  # shares of the noise process, t / (T - 1), between which to guide
GUIDANCE_RESCALE = 0.0
ETA = 0.0
COUNT = 16
SEED = 7

MAX_COUNT = 16
MAX_STEPS = 1000
SLIDER_STEPS = 100  # the handle's reach; the API takes up to MAX_STEPS
MAX_GUIDANCE = 30.0
SLIDER_GUIDANCE = 8.0
MAX_SEED = 2**32 - 1

ANY_CLASS = "any"
PREVIEWS = ("predicted x₀", "noisy x_t")
STORED_FRAMES = 60  # a run keeps at most this many previews for the scrubber
