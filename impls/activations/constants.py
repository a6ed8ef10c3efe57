"""Constants of the activations, which all implementations and the reference share."""

LEAKY_SLOPE = 0.01
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
# gelu_tanh: x times the logistic function of 2 * SQRT_2_OVER_PI * (x + CUBIC * x ** 3).
SQRT_2_OVER_PI, CUBIC = 0.7978845608028654, 0.044715
