-- One row a transaction, known only after it: a prediction sees the user's past, never the row it is about.
WITH hourly AS (
  SELECT
    user_id,
    timestamp,
    count(*) OVER (PARTITION BY user_id ORDER BY timestamp RANGE INTERVAL 1 HOUR PRECEDING) AS velocity,
    avg(amount) OVER (PARTITION BY user_id ORDER BY timestamp RANGE INTERVAL 7 DAY PRECEDING) AS avg_7d_spend
  FROM events
)
SELECT
  user_id,
  timestamp + INTERVAL 1 MICROSECOND AS timestamp,
  avg_7d_spend,
  max(velocity) OVER (PARTITION BY user_id ORDER BY timestamp RANGE INTERVAL 1 DAY PRECEDING) AS max_1h_velocity
FROM hourly
