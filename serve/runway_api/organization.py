"""The organization: this server, where nothing is paid for."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session as Db

from serve.runway_api.answers import CreditDay, CreditUsage, ModelLimit, ModelUse, Organization, Tier, Use, time_of
from serve.runway_api.call import ApiError, Call
from serve.runway_api.requests import MODEL, NoQuery, UsageRequest
from serve.store.tables import Session, now_ms

DAY_MS, MAX_DAYS, DEFAULT_DAYS = 24 * 3600 * 1000, 90, 30
SESSIONS_PER_DAY = DAY_MS // 10_000  # of 10 s, the shortest, in each place


def read(db: Db, call: Call, query: NoQuery, body: None) -> Organization:
    since = select(func.count()).select_from(Session).where(Session.created_ms > now_ms() - DAY_MS)
    limit = ModelLimit(max_concurrent_generations=call.places, max_daily_generations=call.places * SESSIONS_PER_DAY)
    tier = Tier(max_monthly_credit_spend=0, models={MODEL: limit})
    return Organization(tier=tier, usage=Use(models={MODEL: ModelUse(daily_generations=db.scalar(since) or 0)}))


def usage(db: Db, call: Call, query: NoQuery, body: UsageRequest) -> CreditUsage:
    """Credits by day: none on each of them."""
    today = time_of(now_ms()).replace(hour=0, minute=0, second=0, microsecond=0)
    first = _day(body.start_date) if body.start_date else today - timedelta(days=DEFAULT_DAYS)
    last = _day(body.before_date) if body.before_date else first + timedelta(days=DEFAULT_DAYS)
    if not 0 <= (last - first).days <= MAX_DAYS:
        raise ApiError(400, f"beforeDate must be after startDate, by at most {MAX_DAYS} days.")
    days = [first + timedelta(days=number) for number in range((last - first).days)]
    return CreditUsage(models=[], results=[CreditDay(date=day.date().isoformat(), used_credits=[]) for day in days])


def _day(time: datetime) -> datetime:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
