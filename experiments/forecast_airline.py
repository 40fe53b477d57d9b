"""Monthly airline passengers by the seasonal model that carries their name, fitted by exact maximum likelihood.

Paper:    Box and Jenkins, Time Series Analysis: Forecasting and Control, 1970, chapter 9: series G, its logarithms as
          (0, 1, 1)(0, 1, 1)12
Command:  genjax train experiments/forecast_airline.py --data airline.csv [--held-out 24]
Cost:     7 to 16 s of one CPU core, most of it start and compilation; the 40 updates take 0.1 s
Measured: all 144 months: log-likelihood 244.6965 nats (exact, float32), theta -0.4018 ± 0.0896, Theta -0.5569 ± 0.0731,
          sigma^2 0.0013481, 2026-11-24; statsmodels 0.15 told 244.6965, -0.40192, -0.55710
          without the last 24: these lie 39.5 from the median of the forecast (thousands, mean), all in its 95 %
          intervals and 2 in its 50 % intervals: 1959 and 1960 grew faster than the years before

The file holds the months January 1949 to December 1960 and their passengers in thousands.  The log-likelihood is that
of the logarithms given the first 13, which have no differences.
"""

from typing import Annotated

from forecast_sunspots import experiment as arima

from genjax import Count, Experiment, Target
from genjax.fields import Limits

PROTOCOL = "log airline passengers 1949 to 1960, SARIMA(0,1,1)(0,1,1)12, exact likelihood"
TARGETS = (
    Target("27-airline", 244.6965, "nats", "fit/log_likelihood", "airline", "a", "statsmodels 0.15", PROTOCOL,
           tolerance=1e-3, relative=True),
    Target("27-airline-theta", -0.40192, "", "fit/ma1", "airline", "a", "statsmodels 0.15", PROTOCOL, tolerance=1e-3,
           relative=True),
    Target("27-airline-seasonal", -0.55710, "", "fit/seasonal_ma1", "airline", "a", "statsmodels 0.15", PROTOCOL,
           tolerance=1e-3, relative=True),
)  # fmt: skip


def experiment(
    data: str = "airline.csv", held_out: Annotated[int, Limits(0)] = 0, horizon: Count = 36, steps: int = 40
) -> Experiment:
    """The airline model: one ordinary and one seasonal difference, and a moving average of each kind.

    Args:
      data: a CSV file of months and numbers of passengers.
      held_out: months at the end that are not fitted; the forecast is scored on them.
      horizon: months to foresee.
      steps: updates; the fit rests when it has converged, after a dozen.
    """
    return arima(
        data=data,
        log=True,
        ar=0,
        difference=1,
        ma=1,
        seasonal_difference=1,
        seasonal_ma=1,
        period=12,
        mean=False,
        held_out=held_out,
        horizon=horizon,
        steps=steps,
    )
