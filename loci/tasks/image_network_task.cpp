// Legend: B images of a batch.
#include "loci/tasks/image_network_task.h"

#include <ATen/ops/cross_entropy_loss.h>

#include "loci/base/stop_signal.h"

namespace loci {

ImageNetworkTask::ImageNetworkTask(const ImageTaskData& data, const TaskInputs& inputs)
    : batch_(inputs.batch),
      opened_(open_images(data, inputs)),
      input_(input_of_run(opened_->input, inputs)),
      feed_(opened_, input_, data.augment, batch_, inputs.seed),
      progress_(inputs.progress) {}

at::Tensor ImageNetworkTask::loss_of(const at::Tensor& scores, const at::Tensor& labels) const {
  return at::cross_entropy_loss(scores, labels);
}

at::Tensor ImageNetworkTask::loss(int64_t step, int64_t micro) {
  const ImageBatch batch = feed_.training(step, micro);
  const at::Tensor found = scores(batch.images);
  right_.add(found, batch.labels);
  return loss_of(found, batch.labels);
}

void ImageNetworkTask::over_test(const std::function<void(const at::Tensor&, const at::Tensor&)>& each) {
  int64_t images = 0;
  for (int64_t index = 0; index < feed_.test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", images));
    const ImageBatch batch = feed_.test(index);
    each(scores(batch.images), batch.labels);
    images += batch.labels.size(0);
  }
}

int64_t ImageNetworkTask::infer(int64_t position) {
  const ImageBatch batch = feed_.test(position % feed_.test_batches());
  scores(batch.images);
  return batch.labels.size(0);
}

}  // namespace loci
